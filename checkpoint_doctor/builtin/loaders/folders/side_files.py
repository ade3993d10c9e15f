"""Reads the text files beside the weights: the model's configuration, the adapter's, the trainer's progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._optimizers.state import LARGEST_COUNT, number_in
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source, read_json
from checkpoint_doctor.text import shown

LONGEST = 64 << 20
"""Bytes of a JSON file that is read; a trainer's log of a million steps takes about 150 MB and is passed over."""

STEPS_OF_RLLIB = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled", "global_timestep")
"""Counters of environment steps in the state of RLlib's algorithms, before and since Ray's new learner."""
COUNTERS_OF_RLLIB = (*STEPS_OF_RLLIB, "num_env_steps_trained_lifetime", "num_env_steps_trained", "training_iteration")

READ = ("config.json", "adapter_config.json", "trainer_state.json")


class Settings(Struct, frozen=True):
    """What the text files say."""

    architecture: str = ""
    """The kind of model, as transformers calls it (``bert``); empty where it is unknown or has code of its own."""
    step: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_side_file(name: str, source: Source) -> Mapping[str, Any]:
    """Return the object in a JSON file that is of use, empty for other files.

    Raises:
        UnreadableCheckpoint: it is not a JSON object.
    """
    if name not in READ or source.size > LONGEST:
        return {}
    try:
        found = json.loads(read_json(source).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{source.name} is not valid JSON: {shown(error)}", "copy it again") from None
    if not isinstance(found, dict):
        raise UnreadableCheckpoint(f"{source.name} does not contain a JSON object", "copy it again")
    return found


def read_settings(files: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return what the text files of a folder say together."""
    config, adapter, progress = (files.get(name, {}) for name in READ)
    kind = _text(config, "model_type")
    step = progress.get("global_step")
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < LARGEST_COUNT:
        step = None
    version = _text(config, "transformers_version")
    return Settings(
        architecture="" if "auto_map" in config else kind,
        step=step,
        counters={} if step is None else {"global_step": step},
        versions={"transformers": version} if version else {},
        metadata={
            key: value
            for key, value in {
                "model_type": kind,
                "base_model": _text(adapter, "base_model_name_or_path"),
                "adapter": _text(adapter, "peft_type"),
            }.items()
            if value
        },
    )


def read_counters(state: object) -> dict[str, int]:
    """Return the counters in the state of an RLlib algorithm; older versions have most of them under ``counters``."""
    if not isinstance(state, Mapping):
        return {}
    inner = state.get("counters")
    values = {**(inner if isinstance(inner, Mapping) else {}), **state}
    found = {key: number_in(values.get(key)) for key in COUNTERS_OF_RLLIB}
    return {
        key: int(value)
        for key, value in found.items()
        if isinstance(value, int | float) and 0 <= value < LARGEST_COUNT and value == value // 1
    }


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return shown(value) if isinstance(value, str) else ""
