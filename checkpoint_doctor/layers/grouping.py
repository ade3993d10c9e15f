"""Grouping: which tensors form one layer, and in which roles."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from checkpoint_doctor.layers import kind_inference, lora, recurrent
from checkpoint_doctor.layers.kinds import Kind
from checkpoint_doctor.layers.names import ALIASES, ROLES, index_of, is_buffer_name, path_of, split
from checkpoint_doctor.layers.outlines import Draft, Shapes

ATTENTION_ROLES = {
    "in_proj_weight": "weight",
    "in_proj_bias": "bias",
    "q_proj_weight": "q_proj_weight",
    "k_proj_weight": "k_proj_weight",
    "v_proj_weight": "v_proj_weight",
    "bias_k": "bias_k",
    "bias_v": "bias_v",
}
"""The parameters of ``torch.nn.MultiheadAttention`` itself, to their roles."""

_OFFSET_OF = {"gamma": "beta", "g": "b", "a_2": "b_2", "scale": "bias"}
"""Names of a norm's gain to the names of its bias."""

_GAIN_OF = {offset: gain for gain, offset in _OFFSET_OF.items()}

_PARAMETRIZATIONS = {
    "original": "orig",
    "original0": "g",
    "original1": "v",
    "0._u": "spectral_u",
    "0._v": "spectral_v",
}
"""Names below ``parametrizations.weight`` to the endings that the older hooks used."""

Members = dict[str, str]
"""A module's own tensors: their names within the module to their full names."""


def group(shapes: Shapes) -> list[Draft]:
    """Return the drafts of all layers, in file order, each with its kind and its sizes."""
    modules, recurrences, adapters = _collect(shapes)
    recurrent.collect_split_cells(modules, recurrences, shapes)
    drafts: list[Draft] = []
    for (module, suffix), members in recurrences.items():
        cell = recurrent.resolve(module, suffix, members, shapes)
        drafts += [cell] if cell is not None else _as_single_layers(members.values(), shapes)
    for (module, adapter), members in adapters.items():
        drafts.append(lora.resolve(module, adapter, members, shapes))
    for module, members in modules.items():
        drafts += _group_module(module, members, shapes)
    place = {name: position for position, name in enumerate(shapes)}
    drafts.sort(key=lambda draft: min(place[name] for name in draft.parts.values()))
    _correct_by_neighbours(drafts)
    for position, draft in enumerate(drafts):
        draft.position = position
        draft.measure()
    _make_names_unique(drafts)
    return drafts


def _collect(
    shapes: Shapes,
) -> tuple[dict[str, Members], dict[tuple[str, str], Members], dict[tuple[str, str], Members]]:
    modules: dict[str, Members] = {}
    recurrences: dict[tuple[str, str], Members] = {}
    adapters: dict[tuple[str, str], Members] = {}
    for name in shapes:
        adapter = lora.place(name)
        if adapter is not None:
            key, role = adapter
            members = adapters.setdefault(key, {})
        else:
            module, leaf = _unparametrized(name) if "parametrizations." in name else split(name)
            place = recurrent.place(leaf)
            if place is None:
                role, members = leaf, modules.setdefault(module, {})
            else:
                role, suffix = place
                members = recurrences.setdefault((module, suffix), {})
        while role in members:
            # A tensor may be stored under two spellings (a parametrization beside its plain form); both are kept.
            role += "'"
        members[role] = name
    return modules, recurrences, adapters


def _unparametrized(name: str) -> tuple[str, str]:
    """Read ``fc.parametrizations.weight.original1`` as the older ``fc.weight_v`` (torch.nn.utils.parametrize)."""
    before, _, rest = name.rpartition("parametrizations.")
    tensor, _, part = rest.partition(".")
    suffix = _PARAMETRIZATIONS.get(part)
    if suffix is None or (before and before[-1] not in "./"):
        return split(name)
    leaf = suffix if suffix.startswith("spectral") else f"{tensor}_{suffix}"
    return before[:-1], leaf


def _group_module(module: str, members: Members, shapes: Shapes) -> list[Draft]:
    """Form the layer of a module; each tensor that does not belong to it becomes a layer of its own."""
    parts: dict[str, str] = {}
    if "in_proj_weight" in members or "q_proj_weight" in members:
        parts = {ATTENTION_ROLES[leaf]: name for leaf, name in members.items() if leaf in ATTENTION_ROLES}
    else:
        parts = {leaf: name for leaf, name in members.items() if leaf in ROLES}
        for leaf, name in members.items():
            role = ALIASES.get(leaf)
            if role is not None and role not in parts and _is_alias(leaf, module, members, shapes):
                parts[role] = name
        if "weight_u" in parts and "weight_v" in parts:
            # Spectral norm's vectors; without weight_u, weight_v is weight norm's direction matrix.
            parts["spectral_u"], parts["spectral_v"] = parts.pop("weight_u"), parts.pop("weight_v")
    drafts = []
    if parts:
        draft = Draft.of(module, parts, shapes)
        if kind_inference.infer_kind(draft, members):
            drafts.append(draft)
        else:
            parts = {}
    kept = set(parts.values())
    return drafts + _as_single_layers([name for name in members.values() if name not in kept], shapes)


def _is_alias(leaf: str, module: str, members: Members, shapes: Shapes) -> bool:
    """Tell whether a name such as ``gamma`` means a layer's weight here, and not a scale of its own."""

    def is_matrix(leaf: str) -> bool:
        return len(shapes[members[leaf]][0]) >= 2

    def are_equal_vectors(gain: str, offset: str) -> bool:
        if gain not in members or offset not in members:
            return False
        shape = shapes[members[gain]][0]
        return len(shape) == 1 and shape == shapes[members[offset]][0]

    if leaf in ("kernel", "embedding", "embeddings"):
        return is_matrix(leaf)
    if leaf in ("moving_mean", "moving_variance"):
        return "moving_mean" in members and "moving_variance" in members
    if leaf in ("ra_mean", "ra_var", "steps"):
        return "ra_mean" in members and "ra_var" in members
    if leaf == "w":
        return "b" in members and is_matrix("w")
    if leaf in _OFFSET_OF:
        is_lone_vector = _OFFSET_OF[leaf] not in members and len(shapes[members[leaf]][0]) == 1
        is_lone_gain = is_lone_vector and kind_inference.is_norm_name(path_of(module))
        return is_lone_gain or are_equal_vectors(leaf, _OFFSET_OF[leaf])
    if leaf == "b" and "w" in members and is_matrix("w"):
        return True
    return leaf in _GAIN_OF and are_equal_vectors(_GAIN_OF[leaf], leaf)


def _as_single_layers(names: Iterable[str], shapes: Shapes) -> list[Draft]:
    drafts = []
    for name in names:
        draft = Draft.of(name, {"value": name}, shapes)
        shape, dtype = shapes[name]
        _, leaf = split(name)
        is_triangle = leaf == "bias" and len(shape) == 4 and shape[-1] == shape[-2]
        if is_triangle or not kind_inference.is_floating(dtype) or is_buffer_name(leaf):
            draft.kind = Kind.BUFFER
        drafts.append(draft)
    return drafts


def _correct_by_neighbours(drafts: list[Draft]) -> None:
    """Correct kinds and layouts that a layer's own tensors leave open, from layers of the same name or list."""
    stored_inputs_first = {draft.label for draft in drafts if draft.transposed and draft.kind is not Kind.CONV}
    for draft in drafts:
        shape = draft.main
        if draft.kind in (Kind.LINEAR, Kind.ATTENTION) and shape is not None and shape[0] == shape[1]:
            draft.transposed = draft.transposed or draft.label in stored_inputs_first
    for first, second in pairwise([draft for draft in drafts if draft.kind is Kind.EMBEDDING]):
        is_listed = first.parent == second.parent and index_of(first.label) is not None
        # A layer that reads the first one's rows is no embedding but the next layer of ``embed = Sequential(...)``.
        if is_listed and first.main and second.main and first.main[0] == second.main[1]:
            first.kind = second.kind = Kind.LINEAR


def _make_names_unique(drafts: list[Draft]) -> None:
    taken: set[str] = set()
    for draft in drafts:
        name = draft.name or "model"
        if name in taken:
            name = next(iter(draft.parts.values())) or name
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name}#{count}"
        draft.name = candidate
        taken.add(candidate)
