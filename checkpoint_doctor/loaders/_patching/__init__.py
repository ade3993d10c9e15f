"""From new values to the bytes of the file that change.

May import ``loaders._pickle``, ``loaders._zip`` and ``loaders._storage``.
"""
