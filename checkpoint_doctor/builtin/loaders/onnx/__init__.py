"""Reads the weights of ONNX models.

May import the private folders of ``loaders`` and what they may import.
"""
