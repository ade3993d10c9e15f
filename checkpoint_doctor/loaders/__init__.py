"""The readers of file formats.

Reached through entry points only; may import ``checkpoint`` and what lies below it, but no rule and no reporter.
"""
