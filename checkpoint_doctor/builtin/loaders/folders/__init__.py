"""Reads folders that are one checkpoint: weights, with the optimizer and all else that a library saves beside them.

May import the other loaders, their private folders, and what these may import.
"""
