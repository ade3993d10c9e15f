"""Reads zip archives (directory, members, CRC-32) and computes how a CRC-32 changes with a patch.

May import ``checkpoint``, ``sources`` and what they may import.
"""
