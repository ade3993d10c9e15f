"""Zip archives: directory, members, checksums, patches.

May import ``checkpoint``, ``sources`` and what lies below them.
"""
