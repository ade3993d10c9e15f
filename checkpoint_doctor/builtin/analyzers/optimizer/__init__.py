"""Rules about the optimizer's moments: what had gradients, how large they were, what each step did (OPT)."""
