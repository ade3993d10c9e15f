"""checkpoint_doctor: finds out what is wrong with a trained network from its checkpoint."""

__version__ = "0.1.0"
