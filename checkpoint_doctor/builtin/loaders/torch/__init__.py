"""Reads what ``torch.save`` writes: zip, legacy and plain pickle files.

May import the private folders of ``loaders`` and what they may import.
"""
