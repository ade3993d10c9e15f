"""Stops scans and fixes at random moments, and looks at what is left: ``python -m benchmarks.kills``.

Every trial runs in a folder of its own and is stopped by SIGKILL, SIGTERM or SIGINT at a moment between its start and a
little after its end. The bench counts results that are neither whole nor absent, inputs that were touched, and what
stays behind. Only SIGKILL may leave something: a hidden temporary file or folder. The exit code is 1 where a promise is
broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

COMMAND = (sys.executable, "-m", "checkpoint_doctor")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
OVERTIME = 1.1
"""The last moments of a trial, as a share of the time that the whole run takes."""


@dataclass
class Scene:
    """A folder with inputs, a command, and what it leaves when nothing stops it."""

    name: str
    fill: Callable[[Path], None]
    arguments: tuple[str, ...]
    seconds: float = 0.0
    whole: dict[str, bytes] = field(default_factory=dict)
    """The files afterwards that are no inputs, by name."""

    def prepare(self, folder: Path) -> None:
        """Make the inputs, with the same times in every trial: a JSON report holds them."""
        self.fill(folder)
        for path in folder.rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))

    def rehearse(self, folder: Path) -> None:
        """Run once without stopping, and keep the time and the results."""
        self.prepare(folder)
        inputs = read_folder(folder)
        began = time.monotonic()
        result = subprocess.run([*COMMAND, *self.arguments], cwd=folder, capture_output=True, text=True, check=False)
        self.seconds = time.monotonic() - began
        self.whole = {name: content for name, content in read_folder(folder).items() if name not in inputs}
        if result.returncode > 1 or not self.whole:
            raise SystemExit(f"{self.name} does not work: {result.stderr}")


def weights(layers: int = 6, size: int = 500) -> dict[str, NDArray]:
    """A trained network in which a bias was overwritten with zeros."""
    draw = np.random.default_rng(0).normal
    names = [f"net.{2 * layer}" for layer in range(layers)]
    tensors = {f"{name}.weight": draw(0, 0.3, (size, size)).astype(np.float32) for name in names}
    tensors |= {f"{name}.bias": draw(0, 0.3, size).astype(np.float32) for name in names}
    return {**tensors, "net.2.bias": np.zeros(size, np.float32)}


def fill_with_file(folder: Path) -> None:
    """Write a single file."""
    save_file(weights(), folder / "model.safetensors")


def fill_with_zip(folder: Path) -> None:
    """Copy an agent."""
    fixtures = Path(__file__).parents[1] / "fixtures"
    shutil.copy(fixtures / "case_1_head_v6.zip", folder / "agent.zip")
    fill_with_file(folder)


def fill_with_shards(folder: Path) -> None:
    """Write a model in two shards with an index."""
    tensors = weights()
    shards = {f"model-0000{number}-of-00002.safetensors": list(tensors)[number - 1 :: 2] for number in (1, 2)}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    places = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {"total_size": sum(each.nbytes for each in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def fill_with_folder(folder: Path) -> None:
    """Write a folder that is one checkpoint."""
    (folder / "run").mkdir()
    fill_with_file(folder / "run")
    (folder / "run" / "config.json").write_text('{"model_type": "mlp", "architectures": ["Mlp"]}')


REPORTS = ("-f", "json", "-o", "r.json", "--report", "sarif=r.sarif", "--report", "junit=r.xml", "--fail-on", "never")
SCENES = (
    Scene("scan", fill_with_zip, ("scan", ".", "-q", *REPORTS, "--write-baseline", "known.json")),
    Scene("fix a file", fill_with_file, ("fix", "model.safetensors", "-q")),
    Scene("fix shards", fill_with_shards, ("fix", "model.safetensors.index.json", "-q")),
    Scene("fix a folder", fill_with_folder, ("fix", "run", "-q")),
    Scene("fix an agent", fill_with_zip, ("fix", ".", "-q", "--force")),
)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below a folder, without the folder's own name in them."""
    own = str(folder).encode()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes().replace(own, b"FOLDER") for path in files}


def status_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells that a file was written to, for all files below a folder."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (each.st_ino, each.st_size, each.st_mtime_ns, each.st_mode) for name, each in found.items()}


def heed_interruptions() -> None:
    """Undo what a shell does to programs in the background, which then ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_once(scene: Scene, folder: Path, name: str, moment: float) -> Iterator[str]:
    """Run a scene, stop it, and yield what is wrong with what is left; also what counts and is not wrong."""
    scene.prepare(folder)
    inputs, before = read_folder(folder), status_of(folder)
    process = subprocess.Popen(
        [*COMMAND, *scene.arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interruptions,
    )
    time.sleep(moment)
    process.send_signal(SIGNALS[name])
    said = process.communicate(timeout=120)[1]
    if process.returncode in (0, 1):
        yield "finished before"
    left, after = read_folder(folder), status_of(folder)
    if any(left.get(each) != content for each, content in inputs.items()):
        yield "INPUT TOUCHED"
    if any(after.get(each) != found for each, found in before.items()):
        yield "INPUT TOUCHED"
    results = {each: content for each, content in left.items() if each not in inputs}
    hidden = [each for each in results if any(part.startswith(".") for part in Path(each).parts)]
    if hidden or any(path.name.startswith(".") for path in folder.iterdir()):
        yield "temporary left" if name == "SIGKILL" else "LEFT BEHIND"
    named = {each: content for each, content in results.items() if each not in hidden}
    if any(scene.whole.get(each) != content for each, content in named.items()):
        yield "HALF WRITTEN"
    if name != "SIGKILL" and scene.arguments[0] == "fix" and is_parted(named):
        yield "RESULT WITHOUT RECORD"
    if "Traceback" in said and process.returncode != -signal.SIGINT:
        # Before it reaches the first line of ckdoc, Python itself says so.
        ended = said.strip().rpartition("\n")[2]
        yield "traceback of Python's start" if "checkpoint_doctor/cli" not in said else f"TRACEBACK: {ended[:200]}"


def is_parted(named: Mapping[str, bytes]) -> bool:
    """Return whether a result has no record, or a record no result."""
    records = {each.removesuffix(".ckdoc.json") for each in named if each.endswith(".ckdoc.json")}
    results = {each.split(os.sep)[0] for each in named if not each.endswith(".ckdoc.json")}
    shards = {each for each in results if "-of-" in each}
    return results - shards != records or (bool(shards) and not records)


@contextmanager
def _trial_folder(root: str) -> Iterator[Path]:
    """Yield an empty folder, always of the same name, which a JSON report holds as well."""
    folder = Path(root) / "trial"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """Run the trials, print the counts by signal, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, count in (("kill", 1000), ("term", 200), ("int", 200)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"trials with SIG{name.upper()}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    trials = [name for name in SIGNALS for _ in range(getattr(options, name[3:].lower()))]
    chance.shuffle(trials)
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as root:
        for scene in SCENES:
            with _trial_folder(root) as folder:
                scene.rehearse(folder)
            print(f"{scene.name}: {scene.seconds:.2f} s, {len(scene.whole)} results", flush=True)
        for number, name in enumerate(trials, 1):
            scene = SCENES[number % len(SCENES)]
            moment = chance.uniform(0, OVERTIME * scene.seconds)
            with _trial_folder(root) as folder:
                counts[name, "trials"] += 1
                for found in dict.fromkeys(stop_once(scene, folder, name, moment)):
                    counts[name, found] += 1
                    if found.isupper():
                        print(f"trial {number}: {scene.name}, {name} after {moment:.3f} s: {found}", flush=True)
            if number % 50 == 0 or number == len(trials):
                print(f"{number} of {len(trials)}")
                for each in SIGNALS:
                    found = [f"{count} {words}" for (of, words), count in sorted(counts.items()) if of == each]
                    print(f"  {each}: {', '.join(found)}", flush=True)
    return int(any(found.isupper() for _, found in counts))


if __name__ == "__main__":
    sys.exit(main())
