"""The rules, one subject a file.

Reached through entry points only; may import ``plugins`` and what lies below it, but no loader and no reporter.
"""
