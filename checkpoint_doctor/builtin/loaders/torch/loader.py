"""The loader of PyTorch files: zips, legacy files and pickles of tensors, read without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._optimizers.state import identify_optimizer, number_in, plain, shorten
from checkpoint_doctor.builtin.loaders._patching.places import can_change_any
from checkpoint_doctor.builtin.loaders._pickle.modules import attributes_of
from checkpoint_doctor.builtin.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.builtin.loaders.torch.containers import recognize
from checkpoint_doctor.builtin.loaders.torch.contents import name_other_content
from checkpoint_doctor.builtin.loaders.torch.parts import find_parts
from checkpoint_doctor.builtin.loaders.torch.settings_beside import read_settings_beside
from checkpoint_doctor.builtin.loaders.torch.state_dicts import Contents, find_contents
from checkpoint_doctor.checkpoint import Checkpoint, Optimizer, Patch, Skipped, Tensor
from checkpoint_doctor.errors import NotACheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import Budget

SETTINGS = ("hyper_parameters", "hparams", "hyperparameters", "config", "cfg", "args", "opt", "options", "kwargs")
"""Keys under which training code stores its settings."""
STEPS = (
    "global_step", "num_timesteps", "global_timestep", "total_steps", "training_step", "step", "steps", "iteration",
    "iter", "it",
)  # fmt: skip
"""Keys under which training code stores its step count, the most specific first."""
PROGRESS = frozenset((*STEPS, "epoch", "epochs", "version"))
"""Keys beside the settings that describe the state of the run."""
RESULT = re.compile(r"reward|return|score|loss|best|acc|prec|metric", re.I)
"""Words in the keys of results, which training code stores beside the settings."""
VERSIONS = {
    "pytorch-lightning_version": "pytorch_lightning",
    "torch_version": "torch",
    "pytorch_version": "torch",
    "transformers_version": "transformers",
}


class TorchLoader(Struct, frozen=True):
    """Opens what ``torch.save``, ``torch.export.save`` and ``pickle`` write."""

    name: str = "torch"
    suffixes: tuple[str, ...] = (
        ".pt", ".pt2", ".pth", ".pth.tar", ".tar", ".ckpt", ".checkpoint", ".th", ".bin", ".nn", ".cleanrl_model",
        ".pkl", ".pickle", ".p",
    )  # fmt: skip

    def recognizes(self, source: Source) -> bool:
        """True for torch zips, legacy files and pickles. Never raises."""
        return recognize(source) is not None

    def open(self, source: Source) -> Checkpoint:
        """Open a checkpoint; see ``Loader.open``.

        Raises:
            NotACheckpoint: it is whole, but holds no model.
            UnreadableCheckpoint: it is damaged or truncated.
        """
        opened = describe(read_archive(source), self.name)
        if opened.hyperparameters:
            return opened
        beside = read_settings_beside(source)
        return replace(opened, hyperparameters=beside.numbers, skipped=(*opened.skipped, *beside.skipped))

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


def describe(archive: Archive, format: str) -> Checkpoint:
    """Return what an archive contains as a checkpoint of a format.

    Raises:
        NotACheckpoint: it is whole, but holds no model.
        UnreadableCheckpoint: a tensor reaches beyond its storage, or the storage beyond the file.
    """
    contents = find_contents(archive)
    tensors, optimizers, skipped = _name_contents(contents, archive.budget)
    is_pickle = archive.container == "pickle"
    other = name_other_content(archive.root, tensors, optimizers, archive.pickled_names, is_pickle=is_pickle)
    if other and not optimizers and not skipped and all(name.known for name in archive.pickled_names):
        raise NotACheckpoint(f"{archive.name} {other}", "name the file that the model itself was saved in")
    top = archive.root if isinstance(archive.root, dict) else {}
    return Checkpoint(
        path=archive.name,
        format=format,
        # Statistics, data and other arrays are not judged as weights; the file around them is.
        tensors=() if other else tuple(tensors),
        optimizers=tuple(optimizers),
        hyperparameters=_settings(top, archive.budget),
        step=_step(top),
        counters=_counters(top),
        parts=tuple(find_parts(top, archive.budget)),
        versions=_versions(top),
        metadata={"container": archive.container, **({"content": other} if other else {})},
        flaws=archive.flaws,
        checksums=archive.checksums,
        pickled_names=archive.pickled_names,
        skipped=tuple(skipped),
        is_patchable=can_change_any(tensors),
    )


def _name_contents(contents: Contents, budget: Budget) -> tuple[list[Tensor], list[Optimizer], list[Skipped]]:
    """Return the tensors and optimizers with their names, and what cannot be examined."""
    tensors: list[Tensor] = []
    skipped: list[Skipped] = []
    models: dict[str, list[Tensor]] = {}
    names: dict[int, str] = {}
    for name, path, entry in contents.named():
        tensor = entry.tensor.as_tensor(name, entry.is_buffer)
        if isinstance(tensor, Skipped):
            skipped.append(tensor)
            continue
        tensors.append(tensor)
        models.setdefault(path, []).append(tensor)
        names.setdefault(id(entry.tensor), name)
    optimizers = [
        identify_optimizer(found.path or "optimizer", found.state, models, budget, names, found.kind)
        for found in contents.optimizers
    ]
    return tensors, optimizers, skipped + contents.skipped


def _settings(top: Mapping[Any, Any], budget: Budget) -> dict[str, Any]:
    settings: dict[str, Any] = {
        shorten(key): plain(value, budget)
        for key, value in top.items()
        if isinstance(key, str)
        and isinstance(value, bool | int | float | str)
        and key not in PROGRESS
        and key not in VERSIONS
        and not RESULT.search(key)
    }
    for key in SETTINGS:
        given = top.get(key)
        inner = given if isinstance(given, dict) else attributes_of(given)
        settings.update({shorten(name): plain(value, budget) for name, value in islice(inner.items(), 1000)})
    return settings


def _step(top: Mapping[Any, Any]) -> int | None:
    for key in STEPS:
        count = number_in(top.get(key))
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return None


def _counters(top: Mapping[Any, Any]) -> dict[str, int]:
    values = {key: number_in(top.get(key)) for key in (*STEPS, "epoch", "epochs")}
    return {key: value for key, value in values.items() if isinstance(value, int) and not isinstance(value, bool)}


def _versions(top: Mapping[Any, Any]) -> dict[str, str]:
    return {name: str(top[key])[:80] for key, name in VERSIONS.items() if isinstance(top.get(key), str)}


loader = TorchLoader()
