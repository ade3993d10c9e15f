"""Figures from numbers: one pass over a tensor, one over an optimizer's moments.

Knows no file and no rule; may import ``errors`` and ``text``.
"""
