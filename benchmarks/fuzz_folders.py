"""Feeds damaged, incomplete and mixed folders to the loaders and counts what must never happen.

Run as ``python -m benchmarks.fuzz_folders [--inputs 20000] [--seed 0]``. Each input is a folder of one of the layouts
with one to four of its files damaged, missing, empty, renamed, exchanged, or replaced by a pickle that would leave a
trace if it were executed. It is claimed, opened, and every tensor is measured. What counts as a defect is the same as
for files: ``python -m benchmarks.fuzz --help``.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.fuzz import ROOT, check_message, load_loaders, main, mutate, mutate_member, read_all, try_all
from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.plugins.protocols import FolderLoader
from checkpoint_doctor.sources import Folder

Files = Mapping[str, bytes]
"""Path in a folder to the content."""


def seeds(place: Path) -> dict[str, Files]:
    """Write sound folders of every layout into a folder, and return their files."""
    sys.path.insert(0, str(ROOT / "tests"))
    import rank_folders
    import run_folders
    import torch
    from torch.distributed import checkpoint

    model, optimizer, schedule = run_folders.train(steps=4)
    state = model.state_dict()
    run_folders.save_trainer(place / "trainer", model, optimizer, schedule)
    run_folders.save_trainer(place / "trainer in pickles", model, optimizer, schedule, safe=False)
    run_folders.save_shards(place / "shards", state, safe=True)
    run_folders.save_shards(place / "shards in pickles", state, safe=False)
    run_folders.save_accelerate(place / "accelerate", [model, model], [optimizer, optimizer])
    shutil.copytree(place / "trainer", place / "peft")
    (place / "peft" / "model.safetensors").rename(place / "peft" / "adapter_model.safetensors")
    (place / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    contents = {"model": state, "optimizer": optimizer.state_dict(), "step": 4}
    checkpoint.save(contents, checkpoint_id=place / "distributed", no_dist=True)
    run = rank_folders.train()
    for stage in range(4):
        rank_folders.save_deepspeed(place / f"zero {stage}" / "global_step40", *run, stage=stage, mappings=stage == 1)
    shutil.copytree(place / "trainer", place / "trainer with deepspeed")
    shutil.copytree(place / "zero 2" / "global_step40", place / "trainer with deepspeed" / "global_step40")
    for ranks in (1, 2):
        rank_folders.save_megatron(place / f"megatron {ranks}" / "iter_0000040", *run[:2], tensors=ranks, stages=ranks)
    lightning = place / "lightning"
    (lightning / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state, "global_step": 4}, lightning / "checkpoints" / "epoch=0.ckpt")
    (lightning / "hparams.yaml").write_text("lr: 0.1")
    (lightning / "metrics.csv").write_text("step,loss")
    policy = place / "rllib" / "policies" / "default_policy"
    policy.mkdir(parents=True)
    arrays = {name: each.numpy() for name, each in state.items()}
    (policy / "policy_state.pkl").write_bytes(pickle.dumps({"weights": arrays, "global_timestep": 4}))
    (place / "rllib" / "algorithm_state.pkl").write_bytes(pickle.dumps({"training_iteration": 1, "counters": {}}))
    (place / "rllib" / "rllib_checkpoint.json").write_text("{}")
    zoo = place / "zoo" / "CartPole-v1"
    zoo.mkdir(parents=True)
    shutil.copy(ROOT / "fixtures" / "case_1_healthy.zip", place / "zoo" / "CartPole-v1.zip")
    (zoo / "args.yml").write_text("normalize: true")
    (zoo / "vecnormalize.pkl").write_bytes(pickle.dumps({"mean": np.zeros(4)}))
    return {
        folder.name: {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        for folder in sorted(place.iterdir())
        if folder.is_dir()
    }


def damage(files: Files, others: Mapping[str, Files], trap: bytes, chance: random.Random) -> dict[str, bytes]:
    """Return the files of a folder in which something is wrong."""
    changed = dict(files)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if not changed:
            break
        name = chance.choice(sorted(changed))
        kind = chance.random()
        if kind < 0.45:
            is_sound = changed[name] == files.get(name) and changed[name].startswith(b"PK")
            changed[name] = (mutate_member if is_sound and chance.random() < 0.6 else mutate)(changed[name], chance)
        elif kind < 0.6:
            del changed[name]
        elif kind < 0.68:
            changed[name] = b""
        elif kind < 0.76:
            content, other = changed[name], chance.choice(sorted(changed))
            changed[name], changed[other] = changed[other], content
        elif kind < 0.86:
            donor = others[chance.choice(sorted(others))]
            source = chance.choice(sorted(donor))
            changed[chance.choice([name, source])] = donor[source]
        elif kind < 0.94:
            digits = [place for place, letter in enumerate(name) if letter.isdigit()]
            if digits:
                at = chance.choice(digits)
                changed[f"{name[:at]}{chance.randrange(10)}{name[at + 1 :]}"] = changed.pop(name)
        else:
            changed[name] = trap
    return changed


def write(files: Mapping[str, bytes], place: Path) -> None:
    """Write files into an empty folder; a path through what is a file is left out."""
    for name, content in files.items():
        path = place / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError:
            continue


def examine(loaders: list[FolderLoader], place: Path) -> str:
    """Offer a folder and those in it to the loaders, and say what became of the first that is claimed."""
    for path in (place, *sorted(each for each in place.rglob("*") if each.is_dir())):
        folder = Folder.read(path)
        for loader in loaders:
            if not loader.claim_folder(folder):
                continue
            name = getattr(loader, "name", "")
            try:
                opened = loader.open_folder(folder)
                read_all(opened)
                damage = opened.damage
            except DoctorError as error:
                check_message(error.message)
                return f"refused by {name}"
            for message in (*(each.message for each in damage), *(each.why for each in opened.skipped)):
                check_message(message)
            return f"read by {name}" + (", with flaws" if damage else "")
    return "not claimed"


def run(inputs: range, seed: int, report: Callable[[str], None], endings: tuple[str, ...] = ("",)) -> Counter[str]:
    """Try the inputs of these numbers; return how often each outcome came, defects included.

    ``endings`` are those of the names of the sound folders that the inputs grow from.
    """
    loaders = [loader for loader in load_loaders() if isinstance(loader, FolderLoader)]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        place, made = Path(temporary) / "input", Path(temporary) / "made"
        made.mkdir()
        originals = {name: files for name, files in seeds(made).items() if name.endswith(endings)}
        marker = Path(temporary) / "executed"
        trap = b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode()
        report(f"{len(originals)} sound folders, {len(loaders)} loaders")
        for name in originals:
            if not (outcome := examine(loaders, made / name)).startswith("read by") or "flaws" in outcome:
                raise SystemExit(f"the sound folder {name} is {outcome}")

        def attempt(number: int) -> tuple[str, Callable[[], str]]:
            chance = random.Random(f"{seed}/{number}")
            name = chance.choice(sorted(originals))
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            write(damage(originals[name], originals, trap, chance), place)
            return name, lambda: examine(loaders, place)

        outcomes = try_all(inputs, attempt, report)
        if marker.exists():
            outcomes["DEFECT: something was executed"] += 1
        return outcomes


if __name__ == "__main__":
    sys.exit(main(__doc__, run, 20_000))
