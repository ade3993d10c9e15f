"""How the time of a scan grows with the number of tensors: no rule, cause or report may take its square.

Run as ``python -m benchmarks.scaling [--tensors 10000] [--times 10] [--kinds KIND …]``. For each kind of model it scans
one of so many tensors and one of ten times as many, and prints the processor time of both and their ratio, which must
be at most 12, and the stages whose own time grew faster. The exit code is 1 where one does.

The models are made of layers of 2 × 2, so that numbers take no time and names, links and rules take all of it.
"""

from __future__ import annotations

import argparse
import gc
import struct
import sys
import time
from collections.abc import Callable, Iterator
from random import Random

from benchmarks.pickle_code import call, get, listed, mapping, named, number, put, row, storage, text, torch_zip
from checkpoint_doctor.acts.scan import measure_checkpoint, run_rules
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.diagnosis.competition import choose_diagnoses, collect_claims
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.sources import MemorySource

LARGEST_RATIO = 1.2
"""Times that the time of ten times as many tensors may be more than ten times the time."""
NOTICEABLE = 0.2
"""Seconds that a stage must take before its own growth is looked at."""

Values = Callable[[int, int, Random], tuple[float, ...]]
"""Returns the numbers of a tensor from its position, its size and a source of random numbers."""


def drawn(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return ordinary weights."""
    return tuple(random.gauss(0, 0.5) for _ in range(size))


def zero_row(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return weights with a unit without incoming weights, and biases of zero."""
    return (0.0, 0.0, *drawn(place, 2, random)) if size == 4 else (0.0,) * size


def zero(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return zeros for every second layer."""
    return drawn(place, size, random) if place // 2 % 2 else (0.0,) * size


def nan(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return weights with a NaN."""
    return (float("nan"), *drawn(place, size - 1, random))


def huge(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return weights that have exploded."""
    return tuple(1e20 * each for each in drawn(place, size, random))


def dead_input(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return second moments of inputs that were always zero."""
    return (0.0, 1e-4, 0.0, 1e-4) if size == 4 else (1e-4, 1e-4)


def dead_unit(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return second moments of units that never received a gradient."""
    return (0.0, 0.0, 1e-4, 1e-4) if size == 4 else (0.0, 1e-4)


def untouched(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return second moments of every second layer that never received a gradient."""
    return (1e-4,) * size if place // 2 % 2 else (0.0,) * size


def left_out(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return second moments of every second layer, and none of the others."""
    return (1e-4,) * size if place // 2 % 2 else ()


def alive(place: int, size: int, random: Random) -> tuple[float, ...]:
    """Return ordinary second moments."""
    return tuple(abs(each) + 1e-4 for each in drawn(place, size, random))


def in_a_row(layer: int) -> str:
    """Return the name of a layer of one long ``Sequential``."""
    return f"{layer}"


def in_blocks(layer: int) -> str:
    """Return the name of a layer of a transformer's blocks."""
    part = ("self_attn.q_proj", "self_attn.out_proj", "linear1", "linear2")[layer % 4]
    return f"layers.{layer // 4}.{part}"


def at_the_top(layer: int) -> str:
    """Return the name of a layer that stands for itself."""
    return f"head_{layer}"


KINDS: dict[str, tuple[Callable[[int], str], Values, Values | None]] = {
    "ordinary": (in_a_row, drawn, None),
    "blocks": (in_blocks, drawn, None),
    "trained": (in_a_row, drawn, alive),
    "zero rows": (in_a_row, zero_row, None),
    "zero layers": (in_blocks, zero, None),
    "zero heads": (at_the_top, zero, None),
    "NaN": (in_a_row, nan, None),
    "exploded": (in_blocks, huge, alive),
    "dead inputs": (in_a_row, drawn, dead_input),
    "dead units": (in_blocks, drawn, dead_unit),
    "untrained": (in_blocks, drawn, untouched),
    "left out": (in_blocks, drawn, left_out),
    "overwritten": (in_blocks, zero, alive),
}
"""Names of the layers, their values, and the values of their second moments, if any."""


def make(kind: str, tensors: int) -> bytes:
    """Return a file of ``torch.save`` with so many tensors."""
    name, values, moments = KINDS[kind]
    random = Random(0)
    shapes = [(2, 2), (2,)]
    head = named("torch._utils", "_rebuild_tensor_v2") + put(0) + b"0"
    head += row(number(2), number(2)) + put(1) + b"0" + row(number(2)) + put(2) + b"0"
    head += row(number(2), number(1)) + put(3) + b"0" + row(number(1)) + put(4) + b"0"
    head += call(named("collections", "OrderedDict")) + put(5) + b"0"
    storages: dict[str, bytes] = {}

    def tensor(content: tuple[float, ...], axes: int) -> bytes:
        key = str(len(storages))
        storages[key] = struct.pack(f"<{len(content)}f", *content)
        stored = storage(key, len(content))
        return get(0) + row(stored, number(0), get(3 - axes), get(5 - axes), b"\x89", get(5)) + b"R"

    places = [(place, len(shapes[place % 2])) for place in range(tensors)]
    model = mapping(
        (
            text(f"{name(place // 2)}.{'bias' if place % 2 else 'weight'}"),
            tensor(values(place, 2**axes, random), axes),
        )
        for place, axes in places
    )
    if moments is None:
        return torch_zip(head + model, storages)
    state = mapping(
        (
            number(place),
            mapping(
                [
                    (text("step"), number(1000)),
                    (text("exp_avg"), tensor(tuple(each**0.5 / 3 for each in second), axes)),
                    (text("exp_avg_sq"), tensor(second, axes)),
                ]
            ),
        )
        for place, axes in places
        if (second := moments(place, 2**axes, random))
    )
    group = mapping([(text("params"), listed(number(place) for place, _ in places)), (text("lr"), number(1))])
    optimizer = mapping([(text("state"), state), (text("param_groups"), listed([group]))])
    return torch_zip(head + mapping([(text("model"), model), (text("optimizer"), optimizer)]), storages)


def time_stages(content: bytes, catalogue: Catalogue) -> dict[str, float]:
    """Return the processor time of every stage of a scan, in seconds."""
    times: dict[str, float] = {}
    begin = time.process_time()

    def note(stage: str) -> None:
        nonlocal begin
        now = time.process_time()
        times[stage], begin = now - begin, now

    loader = next(each for each in catalogue.loaders if each.name == "torch")
    checkpoint = loader.open(MemorySource("model.pt", content)).with_shared_statistics()
    note("open")
    measure_checkpoint(checkpoint, jobs=1)
    note("measure")
    checkpoint.layer_of, checkpoint.signals, checkpoint.moments  # noqa: B018
    note("layers")
    findings = list(_find(checkpoint, catalogue, note))
    for cause in catalogue.causes:
        collect_claims(checkpoint, findings, [cause])
        note(cause.name)
    claims, crashes = collect_claims(checkpoint, findings, catalogue.causes)
    if crashes:
        raise SystemExit(f"a cause crashed: {crashes[0].message}")
    note("causes")
    choose_diagnoses(claims, sorted(findings, key=by_severity))
    note("competition")
    run_rules(checkpoint, catalogue, Config().for_path("model.pt"))
    note("all rules, causes and the report")
    return times


def _find(checkpoint: Checkpoint, catalogue: Catalogue, note: Callable[[str], None]) -> Iterator[Finding]:
    for rule in catalogue.rules:
        yield from rule.examine(checkpoint, {})
        note(rule.code)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    gc.disable()  # as ckdoc does
    catalogue = discover(lazily=False)
    too_slow = False
    time_stages(make("trained", 200), catalogue)
    for kind in options.kinds:
        few = time_stages(make(kind, options.tensors), catalogue)
        many = time_stages(make(kind, options.times * options.tensors), catalogue)
        gc.collect()
        ratio = sum(many.values()) / sum(few.values())
        too_slow |= ratio > LARGEST_RATIO * options.times
        worse = sorted(
            (-many[stage], stage, many[stage] / max(few[stage], 1e-3))
            for stage in many
            if many[stage] > NOTICEABLE and many[stage] > LARGEST_RATIO * options.times * max(few[stage], 1e-3)
        )
        grown = ", ".join(f"{stage} {-seconds:.2f} s ({times:.0f}×)" for seconds, stage, times in worse[:6])
        print(
            f"{kind:<12} {sum(few.values()):>6.2f} s {sum(many.values()):>7.2f} s  {ratio:>5.1f}×"
            + (f"  grew faster: {grown}" if grown else ""),
            flush=True,
        )
    return too_slow


if __name__ == "__main__":
    sys.exit(main())
