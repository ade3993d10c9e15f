"""Reads nested dictionaries of arrays as JAX's libraries save them: parameters, statistics, optax's state.

May import ``loaders._storage``, ``checkpoint`` and what they may import.
"""
