"""Optimizer state dicts: groups, moments, and which tensor each belongs to. May import ``loaders._pickle``."""
