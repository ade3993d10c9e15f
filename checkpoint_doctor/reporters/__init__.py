"""The output formats, one a file: report in, text out.

Reached through entry points only; may import ``plugins`` and what lies below it.
"""
