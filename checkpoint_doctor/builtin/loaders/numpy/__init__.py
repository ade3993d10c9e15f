"""Reads NumPy's archives of arrays, and tells models from data.

May import the private folders of ``loaders`` and what they may import.
"""
