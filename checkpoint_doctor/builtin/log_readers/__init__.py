"""Reads training logs: one file per format.

Loaded through entry points only. May import ``plugins``, ``checkpoint`` and what they may import, but no other shelf.
"""
