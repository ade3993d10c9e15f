"""Exact zeros: which are normal, why the others are zero, and how severe they are. May import ``_evidence``."""
