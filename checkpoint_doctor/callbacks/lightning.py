"""The callback for the Trainer of Lightning."""
