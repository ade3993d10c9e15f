"""Reads and patches file formats: one public folder per format, and private folders of readers that formats share.

Loaded through entry points only. May import ``plugins``, ``checkpoint`` and what they may import, but neither
``analyzers`` nor ``reporters``.
"""
