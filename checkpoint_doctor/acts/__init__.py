"""What ckdoc does, one file each: scan, fix, compare, watch, log. They return values and print nothing.

May import ``examination``, ``repair`` and everything below.
"""
