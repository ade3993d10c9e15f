"""Reads Orbax's checkpoints: folders of arrays in zarr. Needs tensorstore, which is imported when one is opened.

May import the private folders of ``loaders`` and what they may import.
"""
