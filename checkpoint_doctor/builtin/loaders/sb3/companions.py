"""Files that belong to an agent and lie beside its zip: the statistics of ``VecNormalize``, the replay buffer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders.torch.archive import read_archive
from checkpoint_doctor.checkpoint import Content, Part, PickledName, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import FileSource, Source
from checkpoint_doctor.sources.traces import is_file

NORMALIZER = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
LARGEST = 64 << 20
"""Bytes of a normalizer that is read; the observations of 100,000 features take 2 MB."""
MOST_FEATURES = 100_000

_STEPS = re.compile(r"(?P<prefix>.+?)_(?P<steps>\d+)_steps")


class Companions(Struct):
    """What lies beside a zip."""

    parts: list[Part]
    names: list[PickledName]
    skipped: list[Skipped]


def find_companions(source: Source) -> Companions:
    """Read what lies beside an agent's zip under the names that Stable-Baselines3 and the RL Zoo give to it."""
    found = Companions([], [], [])
    if not os.path.isfile(source.name):  # a part of another file has no neighbours
        return found
    stem = os.path.basename(source.name).rpartition(".")[0]
    for name in _names(stem, "vecnormalize", "vec_normalize"):
        if _is_beside(source, name):
            _read_normalizer(source, name, found)
            break
    for name in _names(stem, "replay_buffer"):
        if _is_beside(source, name):
            found.parts.append(Part(name, Content.REPLAY_BUFFER))
            break
    return found


def _names(stem: str, *kinds: str) -> Iterator[str]:
    """Yield the names of a companion, those of this very checkpoint first."""
    steps = _STEPS.fullmatch(stem)
    for kind in kinds:
        if steps:  # CheckpointCallback
            yield f"{steps['prefix']}_{kind}_{steps['steps']}_steps.pkl"
        yield f"{stem}_{kind}.pkl"
        yield f"{kind}_{stem}.pkl"
        yield f"{stem}/{kind}.pkl"  # RL Zoo: a folder of the environment's name beside the zip
    if not steps:
        yield from (f"{kind}.pkl" for kind in kinds)


def _is_beside(source: Source, name: str) -> bool:
    return is_file(os.path.join(os.path.dirname(source.name), name))


def _read_normalizer(source: Source, name: str, found: Companions) -> None:
    try:
        beside = FileSource(os.path.join(os.path.dirname(source.name), name))
        if beside.size > LARGEST:
            raise UnreadableCheckpoint(f"it has {beside.size:,} bytes, too many for statistics")
        archive = read_archive(beside, name)
    except UnreadableCheckpoint as error:
        found.skipped.append(Skipped(name, error.message))
        return
    found.names += archive.pickled_names
    root = archive.root
    if not isinstance(root, Inert) or root.type_name != NORMALIZER:
        found.skipped.append(Skipped(name, "it does not hold the statistics of VecNormalize"))
        return
    attributes = root.attributes
    plain = {key: attributes.get(key) for key in ("norm_obs", "norm_reward", "clip_obs", "epsilon")}
    values: dict[str, Any] = {key: each for key, each in plain.items() if isinstance(each, (bool, int, float))}
    for key, each in _statistics_of(attributes.get("obs_rms")).items():
        values[f"observations{key}"] = each
    for each in _statistics_of(attributes.get("ret_rms")).values():
        values["returns"] = each
    found.parts.append(Part(name, Content.NORMALIZATION, values))


def _statistics_of(value: object) -> Mapping[str, dict[str, Any]]:
    """Return the running statistics, under an empty key, or under each key of a dictionary of observations."""
    if isinstance(value, Mapping):
        return {f"/{key}": each for key, inner in value.items() for each in _statistics_of(inner).values()}
    if not isinstance(value, Inert) or not value.type_name.endswith(".RunningMeanStd"):
        return {}
    mean, variance, count = (value.attributes.get(key) for key in ("mean", "var", "count"))
    read = {"mean": _numbers(mean), "variance": _numbers(variance)}
    if isinstance(count, (int, float)) and isfinite(count):
        read["count"] = float(count)  # type: ignore[assignment]
    return {"": read}


def _numbers(value: object) -> list[float]:
    if isinstance(value, (int, float)):
        return [float(value)]
    if not isinstance(value, PickledTensor):
        return []
    tensor = value.as_tensor("statistics")
    if isinstance(tensor, Skipped) or tensor.size > MOST_FEATURES:
        return []
    return [float(each) for each in tensor.array.reshape(-1)]
