"""What rules say and what a run found: findings, their identity, reports, baselines, JSON.

May import ``checkpoint`` and what lies below it.
"""
