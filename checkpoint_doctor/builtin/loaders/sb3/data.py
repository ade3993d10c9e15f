"""The settings of a Stable-Baselines3 zip: its member ``data``, read without executing the pickles in it.

``data`` is a JSON object from attribute to value. A value that JSON cannot express is an object with its type
(``:type:``), its cloudpickle in base64 (``:serialized:``) and its first level of attributes as JSON or text
(``stable_baselines3.common.save_util.data_to_json``).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders._optimizers.state import number_in
from checkpoint_doctor.builtin.loaders._pickle.objects import Inert
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders.sb3.pickled_settings import (
    Pickled,
    PickleReader,
    describe_schedule,
    read_name,
    read_number,
)
from checkpoint_doctor.checkpoint import PickledName, Skipped
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import read_json

MOST_ATTRIBUTES = 2000
"""Published files have about 60."""
MOST_DESCRIBED = 100
"""Attributes of one described value that are kept."""
DEEPEST_SETTING = 16
"""Nested lists and mappings of a setting that are kept; published files have about 4."""
LONGEST_TEXT = 400
"""Characters of a described attribute that are kept."""

_RUNTIME = """
    num_timesteps _n_updates start_time verbose tensorboard_log device _logger _custom_logger _episode_num _n_calls
    _last_obs _last_dones _last_episode_starts _last_original_obs _last_lstm_states ep_info_buffer ep_success_buffer
    weights processes old_count n_params _num_timesteps_at_start _stats_window_size
"""
RUNTIME = frozenset(_RUNTIME.split())
"""Attributes that describe the state of a run and not its settings."""


class Settings(Struct, frozen=True, eq=False):
    """The contents of ``data``."""

    plain: Mapping[str, Any] = field(default_factory=dict)
    """Every attribute that is JSON, and every pickled number."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """A description of every other attribute, in plain values."""
    names: tuple[PickledName, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the state of the run shows besides: rewards of recent episodes, normalised observations."""

    def __contains__(self, attribute: str) -> bool:
        return attribute in self.plain or attribute in self.described

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The settings of the run, in the file's order."""
        return {
            attribute: value
            for attribute, value in {**self.plain, **self.described}.items()
            if attribute not in RUNTIME
        }

    def count(self, attribute: str) -> int | None:
        """Return an attribute that is a non-negative integer, ``None`` where it is anything else."""
        value = self.plain.get(attribute)
        return value if type(value) is int and value >= 0 else None


def read_settings(member: Member) -> Settings:
    """Read ``data``. What cannot be read is skipped with the reason, since the tensors do not depend on it."""
    try:
        content = read_json(member.source)
    except UnreadableCheckpoint as error:
        return _unread(member, error.message)
    import json

    try:
        # json.dumps writes NaN and Infinity without quotes, and json.loads accepts them.
        data = json.loads(content.decode("utf-8", "replace"))
        if b"\\ud" in content.lower():  # a lone surrogate, which cannot be printed
            data = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        return _unread(member, "its JSON is nested too deeply")
    except ValueError as error:
        return _unread(member, f"it is not valid JSON: {error}")
    if not isinstance(data, dict):
        return _unread(member, "it is not a JSON object")
    if len(data) > MOST_ATTRIBUTES:
        return _unread(member, f"it has {len(data):,} attributes; more than {MOST_ATTRIBUTES:,} are not read")
    return _describe_all(data, member)


def _unread(member: Member, why: str) -> Settings:
    return Settings(skipped=(Skipped("the settings (data)", why),))


def _describe_all(data: Mapping[str, Any], member: Member) -> Settings:
    reader = PickleReader(member.name)
    plain: dict[str, Any] = {}
    described: dict[str, Any] = {}
    called: dict[tuple[str, str], bool] = {}
    skipped: list[Skipped] = []
    facts: dict[str, str] = {}
    for attribute, value in data.items():
        if not isinstance(value, dict) or not isinstance(value.get(":serialized:"), str):
            plain[attribute] = _cut(value)
            continue
        pickled = reader.read(value[":serialized:"])
        if pickled.problem:
            skipped.append(Skipped(f"the setting {attribute}", pickled.problem))
        for name in pickled.names:
            key = (name.module, name.name)
            called[key] = called.get(key, False) or name.called
        if attribute == "ep_info_buffer":
            facts.update(_read_episodes(pickled.root))
        elif attribute == "_last_original_obs":
            facts["observations"] = "normalized"
        number = number_in(read_number(pickled.root))
        if number is not None:
            plain[attribute] = number
        else:
            described[attribute] = _describe(value, pickled)
    names = (PickledName(module, name, member.name, each) for (module, name), each in called.items())
    return Settings(plain, described, tuple(names), tuple(skipped), facts)


def _describe(value: Mapping[str, Any], pickled: Pickled) -> Any:
    name = read_name(pickled.root)
    if name is not None:
        return name
    kind = str(value.get(":type:", "")).removeprefix("<class '").removesuffix("'>")
    if kind == "function" or kind.endswith("Schedule"):
        return describe_schedule(pickled, str(value.get("value_schedule", "")), kind)
    frequency = _read_train_frequency(pickled.root)
    if frequency is not None:
        return frequency
    attributes = {
        key: _cut(_shorten(text))
        for key, text in islice(value.items(), MOST_DESCRIBED)
        if key not in (":type:", ":serialized:")
    }
    return attributes if kind == "dict" else {"stored_as": "pickle", "class": kind, **attributes}


def _read_episodes(root: Any) -> dict[str, str]:
    """Return the number of recent episodes that SB3's monitor kept, and the means of their rewards and lengths."""
    items = root.items if isinstance(root, Inert) else root
    if not isinstance(items, (list, tuple)):
        return {}
    episodes = [each for each in items if isinstance(each, dict)]
    rewards = [each["r"] for each in episodes if isinstance(each.get("r"), (int, float))]
    lengths = [each["l"] for each in episodes if isinstance(each.get("l"), (int, float))]
    if not rewards or len(lengths) != len(rewards):
        return {}
    return {
        "recent_episodes": str(len(rewards)),
        "mean_episode_reward": repr(float(sum(rewards) / len(rewards))),
        "mean_episode_length": repr(float(sum(lengths) / len(lengths))),
    }


def _read_train_frequency(root: Any) -> dict[str, Any] | None:
    """Return the arguments of SB3's ``TrainFreq(frequency, TrainFrequencyUnit(unit))``, ``None`` for anything else."""
    if not isinstance(root, Inert) or not root.type_name.endswith(".TrainFreq") or len(root.arguments) != 2:
        return None
    frequency, unit = root.arguments
    if type(frequency) is not int or not isinstance(unit, Inert) or len(unit.arguments) != 1:
        return None
    return {"frequency": frequency, "unit": unit.arguments[0]} if isinstance(unit.arguments[0], str) else None


def _cut(value: Any, depth: int = DEEPEST_SETTING) -> Any:
    """Return a setting without what is nested too deeply for a report."""
    if not isinstance(value, dict | list):
        return number_in(value)
    if not depth:
        return "…"
    if isinstance(value, dict):
        return {key: _cut(each, depth - 1) for key, each in value.items()}
    return [_cut(each, depth - 1) for each in value]


def _shorten(value: Any) -> Any:
    """Shorten long texts, remove memory addresses, and parse numbers and lists that were written as text."""
    if not isinstance(value, str):
        return value
    if value.startswith("<") and " at 0x" in value:
        return value.partition(" at 0x")[0] + ">"
    if len(value) > LONGEST_TEXT:
        return value[:LONGEST_TEXT] + " …"
    if value[:1] in "[{(-0123456789" or value in ("True", "False", "None"):
        import ast

        try:
            return _as_json(ast.literal_eval(value))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return value
    return value


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(value)
