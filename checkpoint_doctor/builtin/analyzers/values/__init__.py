"""Rules about the numbers of a tensor: NaN and infinity, scale, and zeros (VAL, ZER)."""
