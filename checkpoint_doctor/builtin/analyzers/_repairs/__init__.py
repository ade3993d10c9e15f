"""Repairs that rules attach to their findings: init rules, recycling, gate biases. May import ``_evidence``."""
