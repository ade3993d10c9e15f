"""Computes the patches of a file that give its tensors new values.

May import ``loaders._pickle``, ``loaders._zip``, ``loaders._storage`` and what they may import.
"""
