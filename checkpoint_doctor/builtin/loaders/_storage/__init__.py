"""Element types, and tensors as strided views of bytes in a file.

May import ``checkpoint``, ``sources`` and what they may import.
"""
