"""Statistics of a tensor's values and of an optimizer's moments, each computed in one pass over blocks.

Independent of files and rules; may import ``errors`` and ``text``.
"""
