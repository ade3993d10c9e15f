"""Reads what Flax serializes with msgpack.

May import the private folders of ``loaders`` and what they may import.
"""
