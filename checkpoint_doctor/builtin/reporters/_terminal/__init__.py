"""Draws the report for a terminal: a chart for each checkpoint, and a table of all. Needs rich.

May import the other private modules of ``reporters`` and what they may import.
"""
