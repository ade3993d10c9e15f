"""Reads optimizer state dicts: parameter groups, moments, and which tensor each belongs to.

May import ``loaders._pickle``, ``loaders._zip``, ``loaders._storage`` and what they may import.
"""
