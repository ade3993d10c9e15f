"""The competition of causes: which of them explain what the rules found, and how certainly.

Knows causes by their declaration only; may import ``plugins`` and everything below.
"""
