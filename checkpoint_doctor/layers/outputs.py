"""Which layers are output heads.

A zero output layer is judged otherwise than a zero hidden layer, so a hidden layer must never be called an output. A
head is told by its name, or by standing at the end of a chain that nobody can continue; any layer that could read its
output, alone or concatenated with others, speaks against it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from checkpoint_doctor.layers.components import is_target_part
from checkpoint_doctor.layers.names import WRAPPERS, index_of, words
from checkpoint_doctor.layers.outlines import MATRICES, NORMS, Draft, Kind

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
"""Names of output heads in Stable-Baselines3, transformers, timm, AllenNLP and everyday code."""

_LONE_HEAD = re.compile(r"actor|critic|generator|decoder|proj_out|[a-z]+2(tag|label|class|out(put)?|logits?)")
"""Names that mean a head where one layer is called so, and a whole network where several are."""

_INSIDE = re.compile(
    r"""(?x) attn | attention | (^|_)att(_|$) | modulation | features_extractor | mlp_extractor | pooler
    | (^|_)(embed|embeddings?|embedder|se|gate|router|shortcut|downsample|skip|encoder|backbone|extractor|memory)(_|$)
    | (^|_)(q|k|v|o|qkv|query|key)_proj$ | ^(query|key|to_[qkv])$"""
)
"""Path elements of layers that feed other layers whatever their own name is."""

_LAST_LABELS = frozenset({"fc", "linear", "dense", "lin", "out", "output", "classifier", "ouput"})
_APART = re.compile(
    r"(actor|critics?|policy|value|generator|discriminator|gen|disc|netG|netD|qf|q_net|q_network|target)\d*(_.*)?"
)
"""Components that only exchange what the environment or the loss passes on."""


def find_outputs(drafts: Sequence[Draft]) -> None:
    """Mark the drafts whose output no other layer reads."""
    scopes: dict[str, list[Draft]] = defaultdict(list)
    trunk: list[Draft] = []
    for draft in drafts:
        if draft.kind not in (Kind.BUFFER, Kind.PARAMETER, Kind.LORA) and (draft.inputs or draft.outputs):
            scope = _scope(draft)
            scopes[scope].append(draft)
            if not is_target_part(scope):
                trunk.append(draft)
    shared_readers = {draft.inputs: draft.position for draft in scopes.get("", ()) if _is_unexplained(draft)}
    for scope, members in scopes.items():
        _find_in(members if scope else trunk, scope, shared_readers)


def _is_unexplained(draft: Draft) -> bool:
    """Tell whether nobody knows which layer's output a layer reads."""
    return draft.previous is None and bool(draft.inputs)


def _scope(draft: Draft) -> str:
    """Return the component where it is one that stands apart, else ``""``, the shared rest of the model."""
    for element in draft.path[:2]:
        if is_target_part(element):
            return element
    return draft.component if _APART.fullmatch(draft.component) else ""


def _find_in(members: list[Draft], scope: str, shared_readers: dict[int | None, int]) -> None:
    """Go through layers that may read each other from the last to the first, knowing what could still read an output.

    A layer of which nobody knows what it reads might read any output of its size. It might also read several outputs
    side by side, unless it reads as much as an earlier layer did: then both read the same thing.
    """
    first_reader: dict[int | None, Draft] = {}
    blocks: dict[tuple[str, ...], Draft] = {}
    for draft in members:
        if _is_unexplained(draft) and draft.kind not in NORMS:
            first_reader.setdefault(draft.inputs, draft)
        block = _block(draft)
        if block is not None and draft.inputs:
            blocks.setdefault(block, draft)
    later: set[int | None] = set()
    later_in_head: dict[tuple[str, ...], set[int | None]] = defaultdict(set)
    widest = 0
    for draft in reversed(members):
        head = _head(draft)
        is_candidate = draft.kind in MATRICES and draft.outputs and not draft.followers and not _is_inside(draft.path)
        if is_candidate and _scope(draft) == scope:
            may_be_read = draft.outputs in later or shared_readers.get(draft.outputs, -1) > draft.position
            if head is not None:
                draft.is_output = not may_be_read and draft.outputs not in later_in_head[head]
            elif draft.previous is not None:
                block = _block(draft)
                repeats = block is not None and blocks[block].inputs == draft.outputs
                draft.is_output = not may_be_read and not repeats and widest <= (draft.outputs or 0)
            else:
                named = draft.label.lower() in _LAST_LABELS and _depth(draft) == 1
                draft.is_output = named and draft is members[-1]
        if draft.inputs:
            if _is_unexplained(draft):
                later.add(draft.inputs)
                if first_reader.get(draft.inputs) is draft:
                    widest = max(widest, draft.inputs)
            if head is not None:
                later_in_head[head].add(draft.inputs)


def _is_inside(path: tuple[str, ...]) -> bool:
    return any(_is_inner(element) and not _is_head(element) for element in path)


@lru_cache(maxsize=8192)
def _is_inner(element: str) -> bool:
    return _INSIDE.search(element.lower()) is not None


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
    """Return the path up to the first element that names a head, unless that is inside a numbered block."""
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
