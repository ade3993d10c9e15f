"""How libraries lay out a checkpoint in a folder: which file is which part.

A layout claims a folder by the names of its files: weights, and beside them a file that only this library writes. What
it does not name (a second copy of the weights in another format, a readme) is left to the other loaders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders.distributed import names as distributed
from checkpoint_doctor.builtin.loaders.folders import megatron
from checkpoint_doctor.builtin.loaders.folders.deepspeed import files as deepspeed
from checkpoint_doctor.checkpoint import Content
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Folder

Claimed = Mapping[str, Content]
"""File in the folder (with ``/`` where it is in a folder in it) to what it is."""


class Layout(Protocol):
    """The files that a library writes for one checkpoint."""

    @property
    def name(self) -> str:
        """The library."""

    def claim(self, folder: Folder) -> Claimed:
        """Return the files of the checkpoint in a folder, empty where there is none."""


def _patterns(**words: str) -> Mapping[Content, re.Pattern[str]]:
    return {Content[name]: re.compile(pattern) for name, pattern in words.items()}


class FlatLayout(Struct, frozen=True):
    """A layout whose files lie directly in the folder and are told apart by their names."""

    name: str
    weights: tuple[str, ...]
    """Patterns of the weights' names, the preferred format first: the first that a file matches counts, as the library
    loads it."""
    marks: re.Pattern[str]
    """Files of which one must be there."""
    others: Mapping[Content, re.Pattern[str]] = field(default_factory=dict)

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        if not any(map(self.marks.fullmatch, folder.files)):
            return {}
        weights = next((found for pattern in self.weights if (found := _matching(pattern, folder))), [])
        if not weights:
            return {}
        claimed = {name: Content.INDEX if name.endswith(".json") else Content.WEIGHTS for name in weights}
        for content, pattern in self.others.items():
            claimed |= {name: content for name in _matching(pattern, folder) if name not in claimed}
        return claimed | _find_deepspeed(folder)


def _matching(pattern: str | re.Pattern[str], folder: Folder) -> list[str]:
    return sorted((name for name in folder.files if re.fullmatch(pattern, name)), key=deepspeed.natural)


def _find_deepspeed(folder: Folder) -> dict[str, Content]:
    """Return the files of DeepSpeed in the folder that it made in a folder of another library; empty for several."""
    inside = [name for name in folder.folders if deepspeed.FOLDER.fullmatch(name)]
    if len(inside) != 1:
        return {}
    try:
        found = deepspeed.find_files(folder.enter(inside[0]).files)
    except UnreadableCheckpoint:
        return {}
    latest = {"latest": Content.PROGRESS} if found and "latest" in folder.files else {}
    return {f"{inside[0]}/{name}": content for name, content in found.items()} | latest


_TOKENIZER = (
    r"tokenizer(_config)?\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r"spiece\.model|sentencepiece.*\.model|(pre)?processor_config\.json|chat_template\.(jinja|json)"
)
_TRAINER = _patterns(
    OPTIMIZER=r"optimizer\.(pt|bin)",
    SCHEDULER=r"scheduler\.pt",
    LOSS_SCALER=r"scaler\.pt",
    RANDOM_STATE=r"rng_state(_\d+)?\.pth",
    PROGRESS=r"trainer_state\.json",
    SETTINGS=r"training_args\.bin|config\.json|generation_config\.json|adapter_config\.json",
    TOKENIZER=_TOKENIZER,
)


_ACCELERATE = _patterns(
    OPTIMIZER=r"optimizer(_\d+)?\.bin",
    SCHEDULER=r"scheduler(_\d+)?\.bin",
    LOSS_SCALER=r"scaler\.pt",
    RANDOM_STATE=r"random_states_\d+\.pkl",
    PROGRESS=r"sampler(_\d+)?\.bin|dl_state_dict(_\d+)?\.bin|custom_checkpoint_\d+\.pkl",
    SETTINGS=r"config\.json",
)


def _find_beside(folder: Folder) -> dict[str, Content]:
    """Return the files that the Trainer and accelerate write beside weights."""
    patterns = (*_TRAINER.items(), *_ACCELERATE.items())
    return {name: content for content, pattern in patterns for name in _matching(pattern, folder)}


class DeepSpeedLayout(Struct, frozen=True):
    """The files of DeepSpeed's ranks, or the folder of a library that left saving to it."""

    name: str = "deepspeed"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        found = deepspeed.find_files(folder.files)
        if found:
            return found
        found = _find_deepspeed(folder)
        beside = _find_beside(folder) if found else {}
        return {**found, **beside} if beside else {}


class ShardedLayout(Struct, frozen=True):
    """What accelerate, and the Trainer through it, save with FSDP: distributed saves in folders of their own."""

    name: str = "accelerate"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        found: dict[str, Content] = {}
        for name in distributed.find_saves(folder) if any(map(distributed.MODEL.fullmatch, folder.folders)) else ():
            content = Content.WEIGHTS if distributed.MODEL.fullmatch(name) else Content.OPTIMIZER
            found |= {f"{name}/{file}": content for file in sorted(distributed.find_files(folder.enter(name)))}
        return {**found, **_find_beside(folder)} if found else {}


class MegatronLayout(Struct, frozen=True):
    """``iter_0001000`` of Megatron-LM: a folder for each model-parallel rank."""

    name: str = "megatron"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        return megatron.find_ranks(folder)


class LightningLayout(Struct, frozen=True):
    """``version_0`` of Lightning's loggers: one checkpoint, with the settings and the metrics beside its folder."""

    name: str = "lightning"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        if "hparams.yaml" not in folder.files or "checkpoints" not in folder.folders:
            return {}
        try:
            saved = [name for name in folder.enter("checkpoints").files if name.endswith(".ckpt")]
        except UnreadableCheckpoint:
            return {}
        if len(saved) != 1:
            return {}  # several checkpoints of one run
        beside = {"hparams.yaml": Content.SETTINGS, "metrics.csv": Content.EVALUATIONS}
        parts = {name: content for name, content in beside.items() if name in folder.files}
        return {f"checkpoints/{saved[0]}": Content.WEIGHTS, **parts}


class RlZooLayout(Struct, frozen=True):
    """``logs/ppo/CartPole-v1_1`` of the RL Zoo: the agent, and a folder of its name with settings and statistics."""

    name: str = "rl-zoo"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        for agent in sorted(folder.files):
            inside = agent.removesuffix(".zip")
            if inside == agent or inside not in folder.folders:
                continue
            try:
                names = folder.enter(inside).files
            except UnreadableCheckpoint:
                continue
            if names & {"args.yml", "config.yml"}:
                known = {"args.yml": Content.SETTINGS, "config.yml": Content.SETTINGS, "command.txt": Content.SETTINGS}
                known["vecnormalize.pkl"] = Content.NORMALIZATION
                parts = {f"{inside}/{name}": known[name] for name in sorted(names & known.keys())}
                results = [
                    name for name in sorted(folder.files) if re.fullmatch(r"evaluations\.npz|.*monitor\.csv", name)
                ]
                return {agent: Content.WEIGHTS, **parts, **dict.fromkeys(results, Content.EVALUATIONS)}
        return {}


class RllibLayout(Struct, frozen=True):
    """An ``Algorithm`` of RLlib: its policies, or since Ray 2.40 the modules and the optimizer of a learner."""

    name: str = "rllib"

    def claim(self, folder: Folder) -> Claimed:
        """See ``Layout.claim``."""
        if "rllib_checkpoint.json" not in folder.files:
            return {}
        files = dict.fromkeys(_walk(folder, 5), Content.SETTINGS)
        for name in files:
            leaf = name.rpartition("/")[2]
            if re.fullmatch(r"policies/[^/]+/policy_state\.pkl|.*rl_module/[^/]+/module_state\.(pkl|pt)", name):
                files[name] = Content.WEIGHTS
            elif name.endswith("learner/state.pkl"):
                files[name] = Content.OPTIMIZER
            elif leaf in ("algorithm_state.pkl", "state.pkl", "module_state.pkl"):
                files[name] = Content.PROGRESS
        return files if Content.WEIGHTS in files.values() else {}


def _walk(folder: Folder, depth: int, path: str = "") -> Iterator[str]:
    """Yield the files of RLlib in a folder and in those in it, down to a depth."""
    yield from (f"{path}{name}" for name in sorted(folder.files) if name.endswith((".pkl", ".pt", ".json")))
    for name in sorted(folder.folders & _OF_RLLIB if not path else folder.folders) if depth else ():
        try:
            yield from _walk(folder.enter(name), depth - 1, f"{path}{name}/")
        except UnreadableCheckpoint:
            continue


_OF_RLLIB = {"policies", "learner_group", "env_runner", "eval_env_runner", "learner"}
"""The folders directly in an algorithm's."""

LAYOUTS: tuple[Layout, ...] = (
    FlatLayout(
        name="peft",
        weights=(r"adapter_model\.safetensors", r"adapter_model\.bin"),
        marks=re.compile(r"adapter_config\.json"),
        others=_TRAINER,
    ),
    FlatLayout(
        name="accelerate",
        weights=(
            r"model(_\d+)?\.safetensors|model(_\d+)?\.safetensors\.index\.json|model(_\d+)?-\d+-of-\d+\.safetensors",
            r"pytorch_model(_\d+)?\.bin|pytorch_model(_\d+)?\.bin\.index\.json|pytorch_model(_\d+)?-\d+-of-\d+\.bin",
        ),
        marks=re.compile(r"random_states_\d+\.pkl"),
        others=_ACCELERATE,
    ),
    FlatLayout(
        name="transformers",
        weights=(
            r"model\.safetensors|model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors",
            r"pytorch_model\.bin|pytorch_model\.bin\.index\.json|pytorch_model-\d+-of-\d+\.bin",
        ),
        marks=re.compile(r"config\.json|training_args\.bin|trainer_state\.json|optimizer\.(pt|bin)"),
        others=_TRAINER,
    ),
    DeepSpeedLayout(),
    ShardedLayout(),
    MegatronLayout(),
    LightningLayout(),
    RlZooLayout(),
    RllibLayout(),
)
"""The first that claims a folder counts."""


def find_layout(folder: Folder) -> tuple[str, Claimed]:
    """Return the name of the layout of a folder, and which file is which part; nothing where no layout claims it."""
    return next(((layout.name, claimed) for layout in LAYOUTS if (claimed := layout.claim(folder))), ("", {}))
