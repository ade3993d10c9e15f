"""Reads GGUF files (llama.cpp).

May import the private folders of ``loaders`` and what they may import.
"""
