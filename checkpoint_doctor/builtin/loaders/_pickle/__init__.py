"""Reads pickles without executing them: a closed table of known globals, and stand-ins for tensors and arrays.

May import ``loaders._zip``, ``loaders._storage`` and what they may import.
"""
