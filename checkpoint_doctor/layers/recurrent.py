"""LSTM, GRU and RNN layers: one per module, layer index and direction."""

from __future__ import annotations

import re

from checkpoint_doctor.layers.gates import count_blocks
from checkpoint_doctor.layers.kinds import RECURRENT, Kind
from checkpoint_doctor.layers.names import is_kernel
from checkpoint_doctor.layers.outlines import Draft, Shapes

_LEAF = re.compile(
    r"(?P<role>(?:weight|kernel|bias)_(?:ih|hh|hr))(?P<layer>_l\d+)?(?P<reverse>_reverse)?(?P<form>_(?:raw|orig|mask|g|v|u))?"
)
_KIND_BY_BLOCKS = {count_blocks(kind): kind for kind in RECURRENT}
"""Blocks of rows in the hidden-to-hidden weight: four in an LSTM, three in a GRU, one in an RNN."""
_ALLENNLP_MODULES = (("state_linearity", "hh"), ("input_linearity", "ih"), ("state_projection", "hr"))
"""AllenNLP's cells keep their projections in linear modules of these names, in PyTorch's gate order."""


def place(leaf: str) -> tuple[str, str] | None:
    """Return (role, suffix of the layer's name) for a recurrent tensor's own name, ``None`` for any other."""
    if not leaf.startswith(("weight_", "kernel_", "bias_")):
        return None
    match = _LEAF.fullmatch(leaf)
    if match is None:
        return None
    suffix = (match["layer"] or "").lstrip("_") + (match["reverse"] or "")
    return match["role"].replace("kernel", "weight") + (match["form"] or ""), suffix


def collect_split_cells(
    modules: dict[str, dict[str, str]], recurrences: dict[tuple[str, str], dict[str, str]], shapes: Shapes
) -> None:
    """Move the tensors of cells that are split over several modules into ``recurrences``.

    These are AllenNLP's augmented LSTM cells, and weight drop (AWD-LSTM), which keeps ``weight_hh_l0_raw`` in a wrapper
    around the module that holds the rest. A highway cell has five blocks of rows; its linear layers are left as they
    are.
    """
    for module in [name for name in modules if name.endswith("state_linearity")]:
        parent = module[: -len("state_linearity")]
        if not parent or parent[-1] not in "./":
            continue
        members = {
            f"{leaf}_{short}": tensor
            for label, short in _ALLENNLP_MODULES
            for leaf, tensor in modules.get(parent + label, {}).items()
            if leaf in ("weight", "bias")
        }
        if (parent[:-1], "") not in recurrences and resolve(parent[:-1], "", members, shapes) is not None:
            recurrences[parent[:-1], ""] = members
            for label, _ in _ALLENNLP_MODULES:
                remaining = modules.get(parent + label, {})
                for leaf in ("weight", "bias"):
                    remaining.pop(leaf, None)
    for (module, suffix), members in list(recurrences.items()):
        wrapped = recurrences.get((f"{module}.module", suffix))
        if (
            wrapped is not None
            and all(role.endswith("_raw") for role in members)
            and not wrapped.keys() & members.keys()
        ):
            wrapped.update(members)
            del recurrences[module, suffix]


def resolve(module: str, suffix: str, members: dict[str, str], shapes: Shapes) -> Draft | None:
    """Return the draft of one recurrent layer, ``None`` where the shapes are not those of a recurrent layer."""
    draft = Draft.of(".".join(part for part in (module, suffix) if part), members, shapes)
    kind = _kind_of(draft)
    if kind is None:
        return None
    draft.kind = kind
    draft.transposed = _has_kernels(draft)
    return draft


def _kind_of(draft: Draft) -> Kind | None:
    from_input, from_hidden = draft.form_of("weight_ih"), draft.form_of("weight_hh")
    if from_input is None or from_hidden is None or len(from_input) != 2 or len(from_hidden) != 2:
        return None
    if is_transposed := _has_kernels(draft):
        from_input, from_hidden = from_input[::-1], from_hidden[::-1]
    rows, hidden = from_hidden
    projection = draft.form_of("weight_hr")
    if projection is not None:
        if len(projection) != 2 or projection[0] != hidden:
            return None
        hidden = projection[1]
    biases = (shape for role, shape in draft.shapes.items() if role in ("bias_ih", "bias_hh"))
    if any(shape != (rows,) and not (is_transposed and shape == (2, rows)) for shape in biases):
        return None
    if from_input[0] != rows or hidden == 0 or rows % hidden:
        return None
    kind = _KIND_BY_BLOCKS.get(rows // hidden)
    return kind if projection is None or kind is Kind.LSTM else None


def _has_kernels(draft: Draft) -> bool:
    """Tell whether the weights are stored inputs first."""
    return all(is_kernel(draft.parts.get(role, "")) for role in ("weight_ih", "weight_hh"))
