"""Rules about the file itself: damage, code in it, tensors without elements (FIL)."""
