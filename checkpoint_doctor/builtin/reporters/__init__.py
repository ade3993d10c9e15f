"""Renders a report as text, one output format per module.

Loaded through entry points only. May import ``plugins`` and what it may import, but neither ``loaders`` nor
``analyzers``.
"""
