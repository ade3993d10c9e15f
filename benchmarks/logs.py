"""Trains small networks and agents, healthy and with a fault put into the run, and asks `ckdoc log` about their logs.

    python -m benchmarks.logs [--only NAME] [--keep FOLDER] [--plain] [--seed N]

A fault counts as found where a rule that may speak about it says so as a warning or an error, with an onset within a
tenth of the run. A healthy run counts as passed where nothing above a note is said.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.log_agents import AGENTS
from checkpoint_doctor.acts.log import examine_logs
from checkpoint_doctor.results.findings import Severity

OFFSET = [0]
"""What is added to every seed of a plain run."""

STEPS = 600
"""Updates of a plain run."""


@dataclass
class Run:
    """A plain training run: what it does at each step can be changed by a fault."""

    name: str
    fault_at: float | None = None
    """Part of the run at which the fault begins, ``None`` for a healthy run."""
    codes: tuple[str, ...] = ()
    """The rules that may find it."""
    train: Callable[[Path], Path] = field(default=lambda folder: folder)
    steps: float = STEPS


def _classes(seed: int, count: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Points of five classes in sixteen dimensions."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(5, 16, generator=generator)
    generator.manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return centers[labels] * 0.5 + noise * torch.randn(count, 16, generator=generator), labels


def _write(records: list[dict[str, float]], path: Path) -> Path:
    """Write records as JSON lines or as a CSV in which metrics are recorded at different times."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        return path
    names = list(dict.fromkeys(name for each in records for name in each))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(records)
    return path


Change = Callable[[int, dict[str, Any]], None]


def classifier(
    folder: Path,
    *,
    change: Change = lambda step, run: None,
    seed: int = 0,
    rate: float = 3e-3,
    steps: int = STEPS,
    data: int = 4000,
    noise: float = 0.3,
    width: int = 32,
    schedule: str = "constant",
    suffix: str = ".csv",
    batch: int = 64,
    norm: bool = True,
    optimizer: str = "adam",
) -> Path:
    """Train a classifier, with a validation every twentieth step; ``change`` may alter the run before each step."""
    torch.manual_seed(seed + OFFSET[0])
    inputs, labels = _classes(seed + OFFSET[0] + 10, data, noise)
    held_inputs, held_labels = _classes(seed + OFFSET[0] + 11, 1000, noise)
    net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 5))
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    run: dict[str, Any] = {
        "net": net, "optimizer": make(net.parameters(), lr=rate), "labels": labels, "scale": 1.0, "inputs": inputs,
        "steps": steps, "rate": rate,
    }  # fmt: skip
    records = []
    for step in range(steps):
        factor = {
            "constant": 1.0,
            "cosine": min(1, step / 60) * 0.5 * (1 + math.cos(math.pi * step / (steps - 1))),
            "linear": 1 - step / (steps - 1),
            "stairs": 0.1 ** (step * 3 // steps),
        }[schedule]
        for group in run["optimizer"].param_groups:
            group["lr"] = run["rate"] * factor
        change(step, run)
        picked = torch.randint(0, data, (batch,))
        loss = run["scale"] * nn.functional.cross_entropy(net(run["inputs"][picked]), run["labels"][picked])
        run["optimizer"].zero_grad()
        loss.backward()
        total = float(nn.utils.clip_grad_norm_(net.parameters(), 1e9))
        run["optimizer"].step()
        record = {"step": step, "train/loss": loss.item(), "lr": run["optimizer"].param_groups[0]["lr"]}
        if norm:
            record["grad_norm"] = total if not run.get("unrecorded") else 0.0
        records.append(record)
        if step % 20 == 19:
            with torch.no_grad():
                outputs = net(held_inputs)
                held = nn.functional.cross_entropy(outputs, held_labels).item()
                right = (outputs.argmax(1) == held_labels).float().mean().item()
            records.append({"step": step, "val/loss": held, "val/accuracy": right})
    return _write(records, folder / f"log{suffix}")


def two_heads(folder: Path, *, fault: float | None = None, seed: int = 0) -> Path:
    """Train two heads on one body; at the fault the second one's labels are reversed in sign in the loss."""
    torch.manual_seed(seed + OFFSET[0])
    inputs = torch.randn(4000, 16)
    first, second = inputs[:, :4].sin().sum(1, keepdim=True), inputs[:, 4:8].abs().sum(1, keepdim=True)
    body, heads = nn.Sequential(nn.Linear(16, 48), nn.Tanh()), nn.ModuleList([nn.Linear(48, 1), nn.Linear(48, 1)])
    optimizer = torch.optim.Adam([*body.parameters(), *heads.parameters()], lr=2e-3)
    records = []
    for step in range(STEPS):
        picked = torch.randint(0, 4000, (64,))
        hidden = body(inputs[picked])
        losses = [
            nn.functional.mse_loss(head(hidden), target[picked])
            for head, target in zip(heads, (first, second), strict=True)
        ]
        weight = -0.5 if fault is not None and step >= fault * STEPS else 1.0
        optimizer.zero_grad()
        (losses[0] + weight * losses[1]).backward()
        total = float(nn.utils.clip_grad_norm_([*body.parameters(), *heads.parameters()], 5.0))
        optimizer.step()
        names = ("loss_discrete", "loss_continuous")
        records.append(
            {"step": step, **{n: each.item() for n, each in zip(names, losses, strict=True)}, "grad_norm": total}
        )
    return _write(records, folder / "log.jsonl")


def autoencoder(folder: Path, *, seed: int = 0) -> Path:
    """Train a variational autoencoder: its KL rises while its reconstruction falls, as it should."""
    torch.manual_seed(seed + OFFSET[0])
    inputs = torch.randn(4000, 4) @ torch.randn(4, 16)
    encode, decode = nn.Linear(16, 8), nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=2e-3)
    records = []
    for step in range(STEPS):
        batch = inputs[torch.randint(0, 4000, (64,))]
        mean, log_variance = encode(batch).chunk(2, 1)
        log_variance = log_variance.clamp(-10, 3)
        made = decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
        reconstruction = nn.functional.mse_loss(made, batch)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        optimizer.zero_grad()
        (reconstruction + 0.01 * kl).backward()
        optimizer.step()
        total = reconstruction.item() + 0.01 * kl.item()
        records.append({"step": step, "loss": total, "recon_loss": reconstruction.item(), "kl_loss": kl.item()})
    return _write(records, folder / "log.csv")


def epochs_table(folder: Path, *, fault: str = "", seed: int = 0) -> Path:
    """Train by epochs and write a table of text, with its header again every ten lines; a fault freezes the network."""
    torch.manual_seed(seed + OFFSET[0])
    inputs, labels = _classes(seed + OFFSET[0] + 10, 1024)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0 if fault == "frozen" else 1e-3)
    header = f"{'epoch':>6} {'loss':>9} {'acc%':>7} {'grad_norm':>10}"
    lines = []
    for epoch in range(40):
        if epoch % 10 == 0:
            lines += [header, "-" * len(header)]
        total = right = norm = 0.0
        for picked in torch.randperm(1024).split(64):
            outputs = net(inputs[picked])
            loss = nn.functional.cross_entropy(outputs, labels[picked])
            optimizer.zero_grad()
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(net.parameters(), 1.0))
            optimizer.step()
            total += loss.item() * len(picked)
            right += float((outputs.argmax(1) == labels[picked]).sum())
        lines.append(f"{epoch:>6} {total / 1024:>9.5f} {right / 10.24:>6.1f}% {norm:>10.3f}")
    path = folder / "training.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def at(share: float, act: Callable[[dict[str, Any]], None]) -> Change:
    """Return a change that acts once, at a part of the run."""

    def change(step: int, run: dict[str, Any]) -> None:
        if step == int(share * run["steps"]):
            act(run)

    return change


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda run: run.update(values)


def _shuffle(run: dict[str, Any]) -> None:
    run["labels"] = run["labels"][torch.randperm(len(run["labels"]))]


def _kill(run: dict[str, Any]) -> None:
    with torch.no_grad():
        run["net"][2].bias.fill_(-1e4)


def _noise_inputs(run: dict[str, Any]) -> None:
    run["inputs"] = torch.randn_like(run["inputs"])


def _one_bad_batch(share: float) -> Change:
    def change(step: int, run: dict[str, Any]) -> None:
        run["scale"] = 1e4 if step == int(share * run["steps"]) else 1.0

    return change


def _plain(name: str, fault_at: float | None = None, codes: str = "", **options: Any) -> Run:
    return Run(name, fault_at, tuple(codes.split()), lambda folder: classifier(folder, **options))


PLAIN = (
    _plain("plain"),
    _plain("cosine with warm-up", schedule="cosine", suffix=".jsonl"),
    _plain("linear to zero", schedule="linear", seed=1),
    _plain("stairs", schedule="stairs", seed=2, rate=1e-2),
    _plain("noisy small batches", batch=4, seed=3, noise=0.6),
    _plain("plain sgd", optimizer="sgd", rate=0.05, seed=4),
    Run("two heads", None, (), lambda folder: two_heads(folder)),
    Run("variational autoencoder", None, (), lambda folder: autoencoder(folder)),
    Run("epochs as text", None, (), lambda folder: epochs_table(folder), 40),
    _plain("norm never recorded", 0.0, "LOG001", change=at(0.0, _set(unrecorded=True))),
    _plain("rate explodes", 0.6, "LOG002 LOG004 LOG005", change=at(0.6, _set(rate=1.0)), seed=1),
    _plain("not a number", 0.5, "LOG008", change=at(0.5, _set(scale=float("nan"))), suffix=".jsonl"),
    _plain("rate too high", 0.0, "LOG002 LOG005 LOG009", rate=3.0, seed=2),
    _plain("overfits", 0.03, "LOG006", data=60, noise=1.0, width=128, rate=3e-3, seed=3),
    _plain("schedule ended early", 0.4, "LOG010", change=lambda step, run: _end(step, run, 0.4)),
    _plain("units die", 0.5, "LOG002 LOG004 LOG007 LOG005", change=at(0.5, _kill), seed=4),
    _plain("labels shuffled", 0.5, "LOG002 LOG004", change=at(0.5, _shuffle), seed=5),
    _plain("inputs lost", 0.7, "LOG002 LOG004", change=at(0.7, _noise_inputs), seed=6),
    _plain("one bad batch", 0.6, "LOG005", change=_one_bad_batch(0.6), seed=7),
    Run("a head forgets", 0.4, ("LOG002", "LOG003"), lambda folder: two_heads(folder, fault=0.4)),
    Run("frozen", 0.0, ("LOG007",), lambda folder: epochs_table(folder, fault="frozen"), 40),
)


def _end(step: int, run: dict[str, Any], share: float) -> None:
    left = max(0.0, 1 - step / (share * run["steps"]))
    for group in run["optimizer"].param_groups:
        group["lr"] = run["rate"] * left


def judge(run: Run, path: Path) -> tuple[bool, str]:
    """Return whether the log was judged rightly, and what was said."""
    report = examine_logs([path])
    [examination] = report.report.checkpoints
    loud = [each for each in examination.findings if each.severity > Severity.NOTE]
    said = "; ".join(f"{each.code} {each.evidence.get('metric')}@{each.evidence.get('onset_step')}" for each in loud)
    if examination.error:
        return False, examination.error
    if run.fault_at is None:
        return not loud, said
    log = report.logs[str(path)]
    length = log.last_step - log.first_step
    truth = log.first_step + run.fault_at * length
    for each in loud:
        onset = each.evidence.get("onset_step")
        if each.code in run.codes and onset is not None and abs(onset - truth) <= 0.1 * length:
            return True, said
    return False, f"{said} (truth {truth:.0f})"


def select(arguments: argparse.Namespace) -> Iterator[Run]:
    """Yield the runs that were asked for."""
    runs = PLAIN if arguments.plain else (*PLAIN, *(Run(*each) for each in AGENTS))
    for run in runs:
        if not arguments.only or arguments.only in run.name:
            yield run


def main() -> None:
    """Train every run, judge its log, and print both rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", default="")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="added to the seeds of the plain runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    OFFSET[0] = arguments.seed
    found = {True: [0, 0], False: [0, 0]}
    with tempfile.TemporaryDirectory() as temporary:
        for run in select(arguments):
            folder = Path(arguments.keep or temporary) / run.name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            begun = time.monotonic()
            kept = sorted(folder.iterdir())
            path = kept[0] if kept else run.train(folder)
            is_right, said = judge(run, path)
            is_fault = run.fault_at is not None
            found[is_fault][0] += is_right
            found[is_fault][1] += 1
            sign = "ok  " if is_right else "MISS" if is_fault else "ALARM"
            print(f"{sign} {run.name} ({time.monotonic() - begun:.0f} s): {said}", flush=True)
    print(f"faults found with their onset: {found[True][0]} of {found[True][1]}")
    print(f"healthy without a warning: {found[False][0]} of {found[False][1]}")


if __name__ == "__main__":
    main()
