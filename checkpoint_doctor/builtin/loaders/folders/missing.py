"""Which files of a layout are not there, though others say that they belong to the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from checkpoint_doctor.builtin.loaders.folders.deepspeed import files as deepspeed
from checkpoint_doctor.builtin.loaders.folders.layouts import Claimed
from checkpoint_doctor.checkpoint import Content, Missing
from checkpoint_doctor.sources import Folder
from checkpoint_doctor.text import shown

_RANK = re.compile(r"(rng_state|random_states)_(\d+)\.(pth|pkl)")
_CHECKPOINT = re.compile(r"(^|[/\\])checkpoint-\d+$")
"""The folders in which Trainer saves a run that it may resume."""
_NORMALIZES = re.compile(r"\bnormalize\b['\"]?\s*(:|,|\n)?[\s-]*(true|['\"]?\{|dict)", re.I)
"""``normalize: true`` in the RL Zoo's settings, also as the items of a Python dictionary, or with options."""


def find_missing(layout: str, claimed: Claimed, texts: Mapping[str, str], folder: Folder) -> Iterator[Missing]:
    """Yield the files that are missing.

    Args:
        layout: the library.
        claimed: the files that are there.
        texts: the text of the settings in YAML and of ``latest``, by file name.
        folder: the folder itself.
    """
    contents = set(claimed.values())
    is_deepspeed = any(deepspeed.content_of(name) for name in claimed)
    if layout in ("transformers", "peft") and "trainer_state.json" in claimed and not is_deepspeed:
        # Trainer loads both or neither; DeepSpeed saves and loads them itself.
        absent = [name for name, content in _LOADED_TOGETHER.items() if content not in contents]
        for name in absent:
            both = "" if len(absent) == 2 else " (that of the other file is then not loaded either)"
            yield Missing(name, f"Trainer resumes with a new optimizer and a new schedule{both}")
    if "training_args.bin" in claimed and "trainer_state.json" not in claimed and _CHECKPOINT.search(folder.path):
        yield Missing("trainer_state.json", "Trainer cannot resume: it is written last, so the save may be incomplete")
    if layout == "accelerate" and Content.SCHEDULER in contents and Content.OPTIMIZER not in contents:
        yield Missing("optimizer.bin", "load_state fails where an optimizer was prepared")
    latest = texts.get("latest", "").strip()
    if latest and latest not in folder.folders:
        yield Missing(shown(latest), "latest names it, so DeepSpeed does not resume from the save that is there")
    ranks = {int(found[2]): found for name in claimed if (found := _RANK.fullmatch(name))}
    for rank in range(max(ranks, default=-1)):
        if rank not in ranks:
            stem, ending = next(iter(ranks.values())).group(1, 3)
            yield Missing(f"{stem}_{rank}.{ending}", f"the random generators of rank {rank} start anew")
    if layout == "rl-zoo" and Content.NORMALIZATION not in contents:
        agent = next((name.partition("/")[0] for name, text in texts.items() if _NORMALIZES.search(text)), "")
        if agent:
            yield Missing(
                f"{agent}/vecnormalize.pkl",
                "the agent was trained on normalized observations, and acts on raw ones without these statistics",
            )


_LOADED_TOGETHER = {"optimizer.pt": Content.OPTIMIZER, "scheduler.pt": Content.SCHEDULER}
