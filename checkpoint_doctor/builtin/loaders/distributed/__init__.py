"""Reads PyTorch's distributed checkpoints: a folder with a ``.metadata`` and the files in which each rank saved.

May import ``loaders.torch``, ``loaders.safetensors``, the private folders of ``loaders`` and what they may import.
"""
