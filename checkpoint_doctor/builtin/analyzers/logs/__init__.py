"""Rules about training logs: what was not recorded, what rises that should fall, and since when (LOG)."""
