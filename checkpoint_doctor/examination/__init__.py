"""The examination of one checkpoint: open it, measure it, run the rules, ask the causes.

May import ``config``, ``diagnosis``, ``plugins`` and what lies below them, but not ``repair``. What is examined for a
scan is described by a task that another process can carry out (``candidates.py``).
"""
