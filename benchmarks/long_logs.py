"""Time and memory of `ckdoc log` on long logs, beside other readers in the same run.

    python -m benchmarks.long_logs csv [--megabytes 240] [--file big.csv]
    python -m benchmarks.long_logs tensorboard [--megabytes 1000]
    python -m benchmarks.long_logs wandb [--megabytes 1000]

A CSV of 240 MB has five million rows; Polars and pandas read the same one. Beside event files and offline runs, pandas
reads a CSV of as many bytes, and one of as many numbers. The package tensorboard reads a twentieth of the events, and
its time is multiplied. Each reader runs in a process of its own; the peak is the process's own (VmHWM). Readers that
are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.builtin.log_readers._checksums import compute_crc32c, mask_crc

CKDOC = "from checkpoint_doctor.acts.log import examine_logs; examine_logs([path])"
PANDAS = "import pandas; pandas.read_csv(path)"
POLARS = "import polars; polars.read_csv(path)"
TENSORBOARD = (
    "from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader as Loader\n"
    "for event in Loader(path).Load(): pass"
)
PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
SHARE = 20
"""The part of the events that the package tensorboard reads."""

METRICS = (
    "train/loss", "train/policy_gradient_loss", "train/value_loss", "train/entropy_loss", "train/learning_rate",
    "train/approx_kl", "train/clip_fraction", "train/grad_norm", "rollout/ep_rew_mean", "rollout/ep_len_mean",
    "time/fps", "eval/mean_reward",
)  # fmt: skip
"""What an agent logs at each step, as events of their own."""


def write_csv(path: Path, size: int, columns: int = 6) -> None:
    """Write a log whose last column is recorded in every tenth row, until it has so many bytes."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(",".join(["step", "loss", *(f"grad_norm_{n}" for n in range(columns - 3)), "val_loss"]) + "\n")
        start = 0
        while file.tell() < size:
            steps = np.arange(start, start + 20_000)
            numbers = 2 * np.exp(-steps / 1e6)[:, None] + 0.1 * rng.random((steps.size, columns - 1))
            lines = [
                f"{step},{','.join(f'{each:.6g}' for each in row[:-1])},{f'{row[-1]:.6g}' if step % 10 == 0 else ''}\n"
                for step, row in zip(steps.tolist(), numbers.tolist(), strict=True)
            ]
            file.write("".join(lines))
            start += steps.size


def write_events(path: Path, size: int) -> int:
    """Write an event for each metric and step, as SummaryWriter does, up to so many bytes; return their number."""
    rng = np.random.default_rng(0)
    count, step = 0, 1
    with path.open("wb") as file:
        file.write(_frame(np.frombuffer(b"\x09" + bytes(8) + b"\x1a\x0dbrain.Event:2", np.uint8)[None]).tobytes())
        while file.tell() < size:
            width = max(1, -(-step.bit_length() // 7))
            steps = np.arange(step, min(step + 8192, 1 << 7 * width))
            records = [_frame(_make_events(name, steps, width, rng)) for name in METRICS]
            file.write(np.concatenate(records, axis=1).tobytes())
            count, step = count + steps.size * len(METRICS), int(steps[-1]) + 1
    return count


def _make_events(name: str, steps: NDArray, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return events of one metric, of shape (steps, bytes); each step takes so many bytes."""
    tag = name.encode()
    value = b"\x0a" + bytes([len(tag)]) + tag + b"\x15" + bytes(4)
    tail = b"\x2a" + bytes([len(value) + 2]) + b"\x0a" + bytes([len(value)]) + value
    events = np.zeros((steps.size, 10 + width + len(tail)), np.uint8)
    events[:, 0], events[:, 9] = 0x09, 0x10
    events[:, 1:9] = (1.7e9 + steps * 0.01).astype("<f8")[:, None].view(np.uint8)
    for place in range(width):
        events[:, 10 + place] = steps >> 7 * place & 0x7F | (0x80 if place < width - 1 else 0)
    events[:, 10 + width :] = np.frombuffer(tail, np.uint8)
    numbers = 2 * np.exp(-steps / 1e6) + 0.1 * rng.random(steps.size)
    events[:, -4:] = numbers.astype("<f4")[:, None].view(np.uint8)
    return events


def _frame(events: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the TFRecords of events of one length."""
    length = np.frombuffer(struct.pack("<Q", events.shape[1]), np.uint8)[None]
    header = np.concatenate([length, _check(length)], axis=1).repeat(len(events), axis=0)
    return np.concatenate([header, events, _check(events)], axis=1)


def _check(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return mask_crc(compute_crc32c(content)).astype("<u4")[:, None].view(np.uint8)


def write_wandb(path: Path, size: int) -> int:
    """Write an offline run of Weights & Biases with a record for each step; return how many numbers it has."""
    rng = np.random.default_rng(0)
    step = 0
    pending = b":W&B\xe1\xbe\x00"
    with path.open("wb") as file:
        while file.tell() < size:
            row = zip(METRICS, (np.exp(-step / 1e6) + rng.random(len(METRICS))).tolist(), strict=True)
            items = b"".join(_make_item(name, json.dumps(number)) for name, number in (("_step", step), *row))
            body = b"\x12" + _varint(len(items)) + items
            page = file.tell() % (1 << 15) + len(pending)
            room = (1 << 15) - page
            if room < 7 + len(body):  # what is left of a page is too small for this record: fill it with one of no use
                filler = bytes(max(0, room - 7))
                pending += (
                    struct.pack("<IHB", zlib.crc32(b"\x01" + filler), len(filler), 1) + filler if room >= 7 else b""
                )
                pending += bytes(room) if room < 7 else b""
            pending += struct.pack("<IHB", zlib.crc32(b"\x01" + body), len(body), 1) + body
            file.write(pending)
            pending, step = b"", step + 1
    return step * (len(METRICS) + 1)


def _make_item(name: str, text: str) -> bytes:
    content = b"\x12" + bytes([len(name)]) + name.encode() + b"\x82\x01" + bytes([len(text)]) + text.encode()
    return b"\x0a" + bytes([len(content)]) + content


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7]) if number > 0x7F else bytes([number])


def measure(name: str, code: str, path: Path, times: int = 1) -> None:
    """Run a reader in a process of its own, and print its time and its peak."""
    begun = time.monotonic()
    program = f"path = {str(path)!r}\n{code}{PEAK}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        return
    taken = (time.monotonic() - begun) * times
    print(f"{name}: {taken:.1f} s, {int(done.stdout) / 1024:.0f} MiB", flush=True)


def main() -> None:
    """Write the files, and print a line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("csv", "tensorboard", "wandb"))
    parser.add_argument("--megabytes", type=int, help="of the log")
    parser.add_argument("--file", type=Path, help="a CSV that is there already")
    arguments = parser.parse_args()
    size = (arguments.megabytes or (240 if arguments.kind == "csv" else 1000)) * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        table = arguments.file or Path(folder) / "long.csv"
        if not table.exists():
            write_csv(table, size)
        print(f"{table.stat().st_size / 1e6:.0f} MB of CSV")
        if arguments.kind == "csv":
            measure("ckdoc log", CKDOC, table)
            measure("polars", POLARS, table)
        measure("pandas", PANDAS, table)
        if arguments.kind == "csv":
            return
        table.unlink()
        is_wandb = arguments.kind == "wandb"
        path = Path(folder) / ("run.wandb" if is_wandb else "events.out.tfevents.1")
        numbers = (write_wandb if is_wandb else write_events)(path, size)
        print(f"{path.stat().st_size / 1e6:.0f} MB with {numbers:,} numbers")
        measure("ckdoc log", CKDOC, path)
        path.unlink()
        write_csv(table, numbers * 8)
        print(f"{table.stat().st_size / 1e6:.0f} MB of CSV with about as many numbers")
        measure("pandas", PANDAS, table)
        if not is_wandb:
            write_events(path, size // SHARE)
            measure(f"the package tensorboard, {SHARE} times a {SHARE}th", TENSORBOARD, path, SHARE)


if __name__ == "__main__":
    main()
