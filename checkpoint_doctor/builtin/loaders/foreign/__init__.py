"""Identifies files that no other loader recognizes, so that the error can say what they are.

May import the private folders of ``loaders`` and what they may import.
"""
