"""Rules about hyperparameters and about the state of a policy (HYP, POL)."""
