"""Reads Stable-Baselines3 zips: settings as JSON beside PyTorch files.

May import ``loaders.torch``, the private folders of ``loaders`` and what they may import.
"""
