"""How well the signal profile reads the size of layers' inputs, against what was recorded while they were trained.

Run as ``python -m benchmarks.signal [--only PATTERN] [--json FILE]``; trains some seventy networks, records the inputs
of their layers, reads their checkpoints and prints the table. One core, under ten minutes, the same figures every time.
Exits with 1 where the median error is above 1.5×, or a layer is read high by more than 4×.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.signal_networks import Agent, Network, networks
from benchmarks.signal_recording import Truth
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.plugins.opening import open_checkpoint

LARGEST_MEDIAN, LARGEST_HIGH = 1.5, 4.0
"""The median error that is allowed, and the largest factor by which a layer may be read too high."""


@dataclass(frozen=True)
class Reading:
    """One figure of a layer as it was read and as it was."""

    network: str
    family: str
    layer: str
    what: str
    """``input``, ``hidden`` or ``gradient``."""
    read: float | None
    truth: float
    reason: str
    features: float | None = None
    """Median error of the single features, as a factor."""
    is_known_to_mislead: bool = False

    @property
    def factor(self) -> float | None:
        """What was read over what was true; ``None`` where nothing was read."""
        return None if self.read is None else self.read / self.truth if self.truth else float("inf")


def read_network(network: Network | Agent, folder: Path, catalogue: Catalogue) -> Iterator[Reading]:
    """Train a network and compare its profile with what was recorded."""
    path = folder / ("agent.zip" if isinstance(network, Agent) else "network.pt")
    truths = network.train(path)
    checkpoint = open_checkpoint(str(path), catalogue)
    for module, truth in truths.items():
        for reading in _compare(network, module, truth, checkpoint):
            yield replace(reading, is_known_to_mislead=network.is_known_to_mislead)


def _compare(network: Network | Agent, module: str, truth: Truth, checkpoint: Checkpoint) -> Iterator[Reading]:
    names = ("weight", "weight_ih_l0", "in_proj_weight")
    tensor = next(name for role in names if (name := f"{module}.{role}") in checkpoint.by_name)
    layer = checkpoint.layer_of[tensor]
    signal = checkpoint.signals[layer.name]
    name = f"{network.family}: {network.name}"
    features = None
    if signal.feature_rms is not None and signal.feature_rms.size == truth.inputs.rms.numel():
        true = truth.inputs.rms.numpy()
        known = true > 0
        with np.errstate(divide="ignore"):
            errors = np.abs(np.log(signal.feature_rms[known] / true[known]))
        features = float(np.exp(np.median(errors))) if known.any() else None
    if truth.input_rms:
        yield Reading(
            name, network.family, layer.name, "input", signal.input_rms, truth.input_rms, signal.reason, features
        )
    hidden = float(truth.hidden.rms)
    if hidden:
        yield Reading(name, network.family, layer.name, "hidden", signal.hidden_rms, hidden, signal.reason)
    gradient = float(truth.gradient.rms)
    if gradient and signal.gradient_rms is not None:
        yield Reading(name, network.family, layer.name, "gradient", signal.gradient_rms, gradient, signal.reason)


def error_of(factor: float) -> float:
    """Return by what factor a reading is wrong, in either direction."""
    return max(factor, 1 / factor) if factor else float("inf")


def summarize(title: str, readings: Sequence[Reading]) -> str:
    """Return a line of the table: how many were read, how well, how many too high and too low."""
    factors = sorted(factor for each in readings if (factor := each.factor) is not None)
    if not factors:
        return f"{title:<16} {len(readings):>6} {0:>5}"
    errors = [error_of(factor) for factor in factors]
    high, low = sum(factor > LARGEST_HIGH for factor in factors), sum(factor < 0.25 for factor in factors)
    shown = [error_of(each.features) for each in readings if each.features is not None]
    features = f"{median(shown):>6.2f}×" if shown else f"{'–':>7}"
    return (
        f"{title:<16} {len(readings):>6} {len(factors):>5} {median(errors):>7.2f}× {factors[0]:>6.2f} "
        f"{median(factors):>6.2f} {factors[-1]:>6.2f} {high:>5} {low / len(factors):>8.1%} {features}"
    )


def print_table(readings: Sequence[Reading]) -> None:
    """Print the lines of the networks, then the table by families."""
    sizes = [each for each in readings if each.what != "gradient"]
    misleading = [each for each in sizes if each.is_known_to_mislead]
    for name in dict.fromkeys(each.network for each in sizes):
        mine = [each for each in sizes if each.network == name]
        factors = ", ".join("–" if each.factor is None else f"{each.factor:.2f}" for each in mine)
        print(f"{name}: {factors}")
    sizes = [each for each in sizes if not each.is_known_to_mislead]
    print("\nread ÷ true      layers  read  median    low    mid   high    >4×  below ¼ features")
    for family in dict.fromkeys(each.family for each in sizes):
        print(summarize(family, [each for each in sizes if each.family == family]))
    print(summarize("all", sizes))
    print(summarize("gradients", [each for each in readings if each.what == "gradient"]))
    print(summarize("known to mislead", misleading))
    print("\nnot read:")
    for reason, count in Counter(each.reason for each in sizes if each.read is None).most_common():
        print(f"{count:>4}  {reason or 'hidden state'}")
    for each in sizes:
        if each.factor is not None and each.factor > LARGEST_HIGH:
            print(f"too high: {each.network}, {each.layer} ({each.what}): {each.read:.3g} instead of {each.truth:.3g}")


def is_good_enough(readings: Iterable[Reading]) -> bool:
    """Say whether the median error and the largest reading are within their limits."""
    usual = [each for each in readings if not each.is_known_to_mislead]
    factors = [factor for each in usual if (factor := each.factor) is not None]
    return median(map(error_of, factors)) <= LARGEST_MEDIAN and max(factors) <= LARGEST_HIGH


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 where the profile reads well enough."""
    parser = argparse.ArgumentParser(description="the signal profile against what was recorded")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of networks to train")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading as JSON")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    began, catalogue, readings, count = time.monotonic(), discover(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for network in networks():
            if fnmatch.fnmatch(f"{network.family}: {network.name}", options.only):
                readings += read_network(network, Path(folder), catalogue)
                count += 1
    if not readings:
        parser.error(f"no network matches {options.only!r}")
    print_table(readings)
    print(f"\n{count} networks, {time.monotonic() - began:.0f} seconds")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in readings], indent=1) + "\n", encoding="utf-8")
    return int(not is_good_enough(readings))


if __name__ == "__main__":
    sys.exit(main())
