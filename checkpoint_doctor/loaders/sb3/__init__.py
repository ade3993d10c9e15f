"""Stable-Baselines3 zips: settings as JSON beside PyTorch files.

May import ``loaders.torch`` and the shared readers.
"""
