"""What a scan of a petabyte or of a million checkpoints would take: a simulation with measured constants.

Run as ``python -m benchmarks.scale``; prints the tables of ``docs/scale.md`` in a minute. Nothing is read: what a task
costs was measured on one machine, and the machines, the store and their prices are assumptions that options change.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp

MIB, TIB = 1 << 20, 1 << 40

MOST_EVENTS = 200_000


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds of one core where nothing else is said."""

    per_byte: float = 0.8e-9
    """Measuring float32 that arrives from a server, the client's share included (``benchmarks.remote``)."""
    per_checkpoint: float = 0.006
    """Opening a checkpoint of twelve tensors and running every rule on it (``benchmarks.fleet``)."""
    per_task: float = 0.001
    """Handing a task to a worker and taking its result back (``benchmarks.engines``)."""
    per_result: float = 0.0006
    """Writing one checkpoint's line, in the one process that collects them (``benchmarks.fleet``)."""
    start: float = 4.0
    """Starting a worker with NumPy and every plugin in it (``benchmarks.engines``)."""
    requests: int = 3
    """Requests for a small file one after the other: its size and the first bytes, its directory, its tensors."""


@dataclass(frozen=True)
class Cluster:
    """The machines and the store, as assumed."""

    cores: int
    per_core: int = 1
    """Tasks that share a core: more than one where they wait for a store most of the time."""
    network: float = 0.31e9
    """Bytes per second and core: a machine with 2.5 Gbit/s for each of its cores."""
    latency: float = 0.03
    """Median seconds to the first byte of an answer; one in a hundred takes ten times as long."""
    request_rate: float = 5500.0
    """Requests per second that a store answers for one prefix, as S3's guide promises at least."""
    core_hour: float = 0.04
    """Dollars."""
    million_requests: float = 0.40
    """Dollars, for reading."""
    lifetime: float = 24 * 3600.0
    """Mean seconds until a core is lost, as with machines that can be taken away."""
    notice: float = 30.0
    """Seconds until the loss of a core is noticed and its task given to another."""


@dataclass(frozen=True)
class Work:
    """What is to be scanned."""

    name: str
    checkpoints: int
    size: int
    """Bytes of each checkpoint that are read."""
    piece: int = 256 * MIB
    """Bytes of a task: a large checkpoint is measured in pieces of whole tensors."""

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.checkpoints * max(1, -(-self.size // self.piece))


@dataclass(frozen=True)
class Outcome:
    """What a simulated run took."""

    seconds: float
    core_seconds: float
    """Seconds that cores were paid for."""
    busy: float
    """Share of them in which a core worked, from 0 to 1."""
    requests: int
    repeated: int
    """Tasks whose core was lost."""
    collecting: float
    """Share of the time in which the process that collects results worked: at 1 it is what everybody waits for."""


def simulate(work: Work, cluster: Cluster, costs: Costs, seed: int = 0) -> Outcome:
    """Let the cores of a cluster carry out all tasks, one event after the other.

    Where there are more tasks than ``MOST_EVENTS``, each event stands for several of them, one after the other.
    """
    draw = random.Random(seed)
    pieces = max(1, work.tasks // work.checkpoints)
    bundle = -(-work.tasks // MOST_EVENTS)
    bundles = -(-work.tasks // bundle)
    size = min(work.size, work.piece)
    computing = costs.per_task + costs.per_checkpoint / pieces + size * costs.per_byte
    moving = size / cluster.network * cluster.per_core
    free = [costs.start + draw.random() for _ in range(min(cluster.cores * cluster.per_core, bundles))]
    heapq.heapify(free)
    asked = repeated = 0
    worked = collected = end = 0.0
    while bundles:
        now = heapq.heappop(free)
        # The store answers no faster than its limit, whoever asks.
        asked += costs.requests * bundle
        waiting = max(0.0, asked / cluster.request_rate - now) + _answers(
            draw, cluster.latency, costs.requests * bundle
        )
        # What shares a core works while the others wait; what is left of their work stands in line.
        sharing = max(bundle * computing, bundle * computing * cluster.per_core - waiting)
        took = waiting + max(sharing, bundle * moving)
        if draw.random() < took / cluster.lifetime:
            repeated += bundle
            heapq.heappush(free, now + took / 2 + cluster.notice)
            continue
        bundles -= 1
        worked += bundle * computing
        collected += bundle * costs.per_result / pieces
        end = max(end, now + took, costs.start + collected)
        heapq.heappush(free, now + took)
    core_seconds = end * cluster.cores
    return Outcome(end, core_seconds, worked / core_seconds, asked, repeated, collected / end)


def _answers(draw: random.Random, median: float, number: int) -> float:
    """Draw the seconds that a number of answers take, one after the other."""
    # The logarithm has a deviation of 1: the slowest hundredth takes ten times the median. Many of them have a mean.
    if number > 12:
        return number * median * exp(0.5)
    return sum(median * draw.lognormvariate(0, 1) for _ in range(number))


def scenarios() -> Iterator[tuple[Work, Cluster]]:
    """Yield what ``docs/scale.md`` shows."""
    fleet = Work("a million of 3 MB", 1_000_000, 3 * MIB)
    for cores, share in ((1, 1), (1, 8), (64, 1), (64, 8), (1024, 8)):
        yield fleet, Cluster(cores, per_core=share)
    yield replace(fleet, name="a million, headers only", size=64 << 10), Cluster(64, per_core=8)
    for cores in (8, 64):
        yield Work("one of 810 GB", 1, 810 * 10**9), Cluster(cores)
    petabyte = Work("1 PB in files of 1 TB", 1024, TIB)
    for cores in (64, 1024, 8192):
        yield petabyte, Cluster(cores)
    yield replace(petabyte, name="1 PB, headers only", size=MIB), Cluster(64, per_core=8)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=Cluster.latency, help="median seconds to the first byte")
    parser.add_argument("--core-hour", type=float, default=Cluster.core_hour, help="dollars")
    arguments = parser.parse_args()
    print(
        "| work | cores | tasks per core | time | core hours | cores busy | requests | repeated | collector | dollars |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for work, cluster in scenarios():
        cluster = replace(cluster, latency=arguments.latency, core_hour=arguments.core_hour)
        outcome = simulate(work, cluster, Costs(), arguments.seed)
        hours = outcome.core_seconds / 3600
        dollars = hours * cluster.core_hour + outcome.requests / 1e6 * cluster.million_requests
        print(
            f"| {work.name} | {cluster.cores:,} | {cluster.per_core} | {_duration(outcome.seconds)} | {hours:,.0f} "
            f"| {outcome.busy:.0%} | {outcome.requests / 1e6:,.2f} M | {outcome.repeated:,} | {outcome.collecting:.0%} "
            f"| {dollars:,.0f} |"
        )


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
