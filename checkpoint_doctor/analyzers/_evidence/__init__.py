"""Evidence that rules share: what the optimizer recorded, which zeros are normal, how layers are initialised."""
