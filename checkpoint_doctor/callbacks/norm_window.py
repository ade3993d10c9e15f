"""The norms of the latest gradients, and which of them stood out."""

from __future__ import annotations

from collections import deque
from math import exp, sqrt

from checkpoint_doctor.checkpoint import GradientSpike

LENGTH = 128
"""Steps that a norm is compared with, as in ZClip (2504.02507) and the spike detectors of large training runs."""
FEWEST = 32
"""Steps before the first comparison: a deviation of fewer says little."""
SIGMAS = 6.0
"""Standard deviations of the logarithm from which a norm stands out."""
LEAST_DEVIATION = 0.1
"""The smallest deviation that is reckoned with: norms that differ by 10 % are alike."""
MOST_SPIKES = 8


class NormWindow:
    """A window over the logarithms of gradient norms. To add one costs a few additions."""

    def __init__(self) -> None:
        self.spikes: list[GradientSpike] = []
        self._logs: deque[float] = deque()
        self._sum = self._squares = 0.0

    def add(self, step: int, logarithm: float) -> None:
        """Add the logarithm of a step's norm, after comparing it with those before."""
        count = len(self._logs)
        if count >= FEWEST:
            mean = self._sum / count
            rise = logarithm - mean
            # Cheap first: most norms are not larger than usual.
            if rise > SIGMAS * LEAST_DEVIATION:
                deviation = max(sqrt(max(self._squares / count - mean * mean, 0.0)), LEAST_DEVIATION)
                if rise > SIGMAS * deviation and len(self.spikes) < MOST_SPIKES:
                    self.spikes.append(GradientSpike(step, exp(logarithm), exp(mean), rise / deviation))
            if count == LENGTH:
                first = self._logs.popleft()
                self._sum -= first
                self._squares -= first * first
        self._logs.append(logarithm)
        self._sum += logarithm
        self._squares += logarithm * logarithm
