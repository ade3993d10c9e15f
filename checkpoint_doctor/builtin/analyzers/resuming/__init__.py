"""Rules about resuming: schedules, averaged weights, and optimizer states that do not fit (RES)."""
