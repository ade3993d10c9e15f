"""PyTorch files: zip, legacy and plain pickles. May import the shared readers beside it."""
