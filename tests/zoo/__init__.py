"""Small models of ordinary architectures, really trained and healthy: ckdoc must find nothing wrong with them.

Every file here holds the models of one subject, each as a function that trains it. They are trained in seconds, where
and when they are needed; no file of theirs is part of the project.
"""

from tests.zoo import agents, generative, images, sequences, transfer, unusual, vectors
from tests.zoo.training import ZOO, HealthyModel

__all__ = [
    "ZOO",
    "HealthyModel",
    "agents",
    "generative",
    "images",
    "sequences",
    "transfer",
    "unusual",
    "vectors",
]
