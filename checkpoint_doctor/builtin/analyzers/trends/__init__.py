"""Rules about a series of checkpoints: what moved, what froze, what died, and when that began (TRD)."""
