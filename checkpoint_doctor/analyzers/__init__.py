"""The rules, one subject per file.

They are loaded through entry points only. They may import ``plugins`` and the layers below it, but no loader and no
reporter.
"""
