"""Rules about the file itself: damage, duplicates, missing companions and names that execute code (FIL)."""
