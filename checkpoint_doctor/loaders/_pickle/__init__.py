"""Pickles read by a closed table: data is built, nothing is run.

May import ``loaders._zip`` and ``loaders._storage``.
"""
