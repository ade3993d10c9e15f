"""What the optimizer recorded, and what rules share about it: activity of units, decay of moments, what was trained."""
