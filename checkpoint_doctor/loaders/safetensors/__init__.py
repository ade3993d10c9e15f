"""Safetensors files and their shards. May import the shared readers beside it."""
