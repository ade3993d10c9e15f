"""What a run was told: which rules to run, how severe their findings are, what to hide and why.

May import ``plugins`` and what lies below it.
"""
