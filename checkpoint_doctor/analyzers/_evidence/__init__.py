"""What several rules ask of a checkpoint: what the optimizer recorded, which zeros are normal, how a layer started."""
