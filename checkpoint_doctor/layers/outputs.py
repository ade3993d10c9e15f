"""Which layers are output heads.

A zero output layer is judged differently from a zero hidden layer, so a hidden layer must never be taken for an output.
A head is recognised by its name, or as the last layer of a chain that no other layer can continue. Any layer that could
read its output, alone or concatenated with others, rules it out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct, field

from checkpoint_doctor.layers.components import is_target_part
from checkpoint_doctor.layers.kinds import DENSE, FEEDFORWARD, NORMS
from checkpoint_doctor.layers.names import WRAPPERS, index_of, words
from checkpoint_doctor.layers.outlines import Draft

_HEAD = re.compile(
    r"""(?x) _*(
    action_net | value_net | q_net | quantile_net | (target_)?qf\d* | vf\d* | q\d* | v | pi | mu | mean
    | log_?(std|sigma|var)
    | (.*_)?heads?(_?\d+)? | .*classifiers?(_?\d+)? | (.*_)?logits?(_layer|_proj)?
    | (.*_)?(?<!weights_)predictors? | predictions? | score | qa_outputs | seq_relationship
    | (tag|output|vocab)_projection(_layer)? | readout(_layer)? | embed_out | unembed
    | fc_?(mu|mean|std|log_?std|logvar|pi|v|q|a|out\d*|policy|value|action|adv(antage)?)
    | (.*_)?(mean|log_?std)(_linear|_layer) | (mean|(log_?)?std|mu)_?(linear|layer|head)?
    | (actor|critic|value|policy|action|q|adv(antage)?)_?(out(put)?|linear|layer|fc)
    | (action|policy|actor|value)_(mean|mu|std|log_?std|branch(es)?) | (q|state|action)_values?
    | value | policy | adv(antage)?s? | class_embed | bbox_embed
    | (final|last)(_(layer|linear|conv|fc|dense))? | dense_final
    | (fc|linear|lin|dense|conv|layer)_?(final|last|out(put)?)
    | outc | out(put)?s?(_(layer|linear|conv|fc|dense))?
    )"""
)
"""Names of output heads in Stable-Baselines3, transformers, timm, AllenNLP and common user code."""

_LONE_HEAD = re.compile(r"actor|critic|generator|decoder|proj_out|[a-z]+2(tag|label|class|out(put)?|logits?)")
"""Names that mean a head where a single layer has them, and a whole network where several layers do."""

_INNER = re.compile(
    r"""(?x) attn | attention | (^|_)att(_|$) | modulation | features_extractor | mlp_extractor | pooler
    | (^|_)(embed|embeddings?|embedder|se|gate|router|shortcut|downsample|skip|encoder|backbone|extractor|memory)(_|$)
    | (^|_)(q|k|v|o|qkv|query|key)_proj$ | ^(query|key|to_[qkv])$"""
)
"""Path elements of layers inside a network. Other layers read them, whatever their own name is."""

_LAST_LABELS = frozenset({"fc", "linear", "dense", "lin", "out", "output", "classifier", "ouput"})
_SEPARATE = re.compile(
    r"(actor|critics?|policy|value|generator|discriminator|gen|disc|netG|netD|qf|q_net|q_network|target)\d*(_.*)?"
)
"""Components that do not read one another's layers; only the environment or the loss connects them."""


def find_outputs(drafts: Sequence[Draft]) -> None:
    """Mark the drafts whose output no other layer reads."""
    scopes: dict[str, list[Draft]] = defaultdict(list)
    shared: list[Draft] = []
    for draft in drafts:
        if draft.kind in DENSE | NORMS and (draft.inputs or draft.outputs):
            scope = _scope(draft)
            scopes[scope].append(draft)
            if not is_target_part(scope):
                shared.append(draft)
    shared_readers = {draft.inputs: draft.position for draft in scopes.get("", ()) if _has_unknown_source(draft)}
    for scope, members in scopes.items():
        _find_in(members if scope else shared, scope, shared_readers)


def _has_unknown_source(draft: Draft) -> bool:
    """Tell whether it is unknown which layer's output a layer reads."""
    return draft.previous is None and bool(draft.inputs)


def _scope(draft: Draft) -> str:
    """Return the component if it is a separate one, else ``""`` for the shared rest of the model."""
    for element in draft.path[:2]:
        if is_target_part(element):
            return element
    return draft.component if _SEPARATE.fullmatch(draft.component) else ""


class _LaterReaders(Struct):
    """Sizes that the layers behind the current one read."""

    inputs: set[int | None] = field(default_factory=set)
    """Of the layers whose source is unknown: each might read any output of that size."""
    inputs_in_head: dict[tuple[str, ...], set[int | None]] = field(default_factory=lambda: defaultdict(set))
    """Of the layers in each head."""
    widest: int = 0
    """Largest size that only later layers read: it may be several outputs, concatenated."""

    def add(self, draft: Draft, first_reader: Mapping[int | None, Draft]) -> None:
        """Add a layer, given the first layer of unknown source for every size."""
        if not draft.inputs:
            return
        if _has_unknown_source(draft):
            self.inputs.add(draft.inputs)
            # A later reader of a size that was read before reads the same output as the earlier one.
            if first_reader.get(draft.inputs) is draft:
                self.widest = max(self.widest, draft.inputs)
        head = _head(draft)
        if head is not None:
            self.inputs_in_head[head].add(draft.inputs)


def _find_in(members: list[Draft], scope: str, shared_readers: Mapping[int | None, int]) -> None:
    """Mark the outputs among layers that may read each other, from the last layer to the first."""
    first_reader: dict[int | None, Draft] = {}
    blocks: dict[tuple[str, ...], Draft] = {}
    for draft in members:
        if _has_unknown_source(draft) and draft.kind not in NORMS:
            first_reader.setdefault(draft.inputs, draft)
        block = _block(draft)
        if block is not None and draft.inputs:
            blocks.setdefault(block, draft)
    later = _LaterReaders()
    for draft in reversed(members):
        if _may_be_output(draft) and _scope(draft) == scope:
            may_be_read = draft.outputs in later.inputs or shared_readers.get(draft.outputs, -1) > draft.position
            if _head(draft) is None and draft.previous is None:
                named = draft.label.lower() in _LAST_LABELS and _depth(draft) == 1
                draft.is_output = named and draft is members[-1]
            else:
                draft.is_output = not may_be_read and _is_end(draft, later, blocks)
        later.add(draft, first_reader)


def _may_be_output(draft: Draft) -> bool:
    is_matrix = draft.kind in FEEDFORWARD and bool(draft.outputs)
    return is_matrix and not draft.followers and not _is_inner_path(draft.path)


def _is_end(draft: Draft, later: _LaterReaders, blocks: Mapping[tuple[str, ...], Draft]) -> bool:
    """Tell whether no later layer of the same head, or none at all behind a chain, could read the output."""
    head = _head(draft)
    if head is not None:
        return draft.outputs not in later.inputs_in_head[head]
    block = _block(draft)
    repeats = block is not None and blocks[block].inputs == draft.outputs
    return not repeats and later.widest <= (draft.outputs or 0)


def _is_inner_path(path: tuple[str, ...]) -> bool:
    return any(_is_inner(element) and not _is_head(element) for element in path)


@lru_cache(maxsize=8192)
def _is_inner(element: str) -> bool:
    return _INNER.search(element.lower()) is not None


@lru_cache(maxsize=8192)
def _is_head(element: str) -> bool:
    return _HEAD.fullmatch("_".join(words(element)) if element != element.lower() else element) is not None


def _block(draft: Draft) -> tuple[str, ...] | None:
    """Return the numbered block that a layer is part of: ``encoder.layers.3`` for ``encoder.layers.3.linear2``."""
    path = draft.path
    for place in range(len(path) - 2, draft.is_wrapped - 1, -1):
        if index_of(path[place]) is not None:
            return path[: place + 1]
    return None


def _head(draft: Draft) -> tuple[str, ...] | None:
    """Return the path up to the first element that names a head, unless it is inside a numbered block."""
    for place in range(draft.is_wrapped, len(draft.path)):
        element = draft.path[place]
        if index_of(element) is not None:
            return None
        if _is_head(element):
            return draft.path[: place + 1]
    if _depth(draft) == 1 and _LONE_HEAD.fullmatch(draft.label):
        return draft.path
    return None


def _depth(draft: Draft) -> int:
    path = draft.path[draft.is_wrapped :]
    return sum(element not in WRAPPERS and element not in ("state_dict", "model", "net", "network") for element in path)
