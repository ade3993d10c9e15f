"""Says what a file is that no other loader recognizes. May import the shared readers beside it."""
