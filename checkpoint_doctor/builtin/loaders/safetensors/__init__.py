"""Reads safetensors files, and the shards of an index.

May import the private folders of ``loaders`` and what they may import.
"""
