"""From findings to a repaired copy: plan, simulate, write, verify, name.

May import ``config``, ``plugins`` and what lies below them.
"""
