"""Chains of numbered neighbours: ``Sequential`` and lists that are used like one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from checkpoint_doctor.layers.links import feeds, link
from checkpoint_doctor.layers.names import index_of, words
from checkpoint_doctor.layers.outlines import Draft, Kind

_PARALLEL = frozenset(
    {
        *("head", "heads", "expert", "experts", "branch", "branches", "towers", "streams", "members", "nets", "models"),
        *("critic", "critics", "actors", "ensemble", "ensembles", "outputs", "classifiers", "predictors"),
        *("encoders", "decoders", "embeds", "embeddings", "lins", "projs", "projections"),
    }
)
"""Words of module lists whose members stand side by side, so that equal sizes prove nothing."""


def connect_sequentials(drafts: Sequence[Draft]) -> None:
    """Link the neighbours of every chain."""
    run: list[Draft] = []
    for draft in drafts:
        if run and _is_elementwise(draft, run[-1]):
            continue
        if run and _continues(run, draft):
            run.append(draft)
            continue
        _connect_run(run)
        run = [draft] if draft.outputs and index_of(draft.label) is not None else []
    _connect_run(run)


def _is_elementwise(draft: Draft, before: Draft) -> bool:
    """Tell whether a draft changes nothing in a sequence: PReLU's slopes, a buffer."""
    if draft.kind is Kind.BUFFER:
        return True
    slopes = draft.kind is Kind.PARAMETER and draft.parts.keys() == {"weight"} and len(draft.shapes["weight"]) <= 1
    return slopes and draft.parent == before.parent


def _continues(run: list[Draft], draft: Draft) -> bool:
    before = run[-1]
    first, second = index_of(before.label), index_of(draft.label)
    if before.parent != draft.parent or first is None or second is None or second <= first:
        return False
    if feeds(before, draft):
        return True
    # Without a bias, only the neighbours tell that a convolution is stored inputs first, as in DCGAN's generator.
    if (
        before.kind is Kind.CONV
        and draft.kind is Kind.BATCH_NORM
        and before.inputs == draft.inputs
        and not before.transposed
    ):
        if "bias" in before.shapes or (len(run) > 1 and run[-2].outputs != before.outputs):
            return False
        before.transpose()
        return True
    if draft.kind is Kind.CONV and any(each.transposed for each in run) and draft.outputs == before.outputs:
        if "bias" in draft.shapes and draft.shapes["bias"][0] != draft.inputs:
            return False
        draft.transpose()
        return True
    return False


def _connect_run(run: list[Draft]) -> None:
    """Link a run of numbered neighbours whose sizes fit, unless they might stand side by side.

    Numbers without gaps may be a list of parallel layers. Then a change of size or of kind along the run is the proof
    that they follow each other, and equal square layers without any such proof stay apart.
    """
    if len(run) < 2:
        return
    is_parallel = not _PARALLEL.isdisjoint(words(run[0].parent[-1])) if run[0].parent else False

    def is_sure(first: Draft, second: Draft) -> bool:
        if (index_of(second.label) or 0) - (index_of(first.label) or 0) > 1 or first.kind is not second.kind:
            return True
        return not is_parallel and not first.inputs == first.outputs == second.inputs == second.outputs

    def may_skip(first: Draft, second: Draft) -> bool:
        """Tell whether a shortcut may lead around the second layer, as in lists of residual convolutions."""
        is_list = (index_of(second.label) or 0) - (index_of(first.label) or 0) == 1 and first.kind is second.kind
        return is_list and second.kind is Kind.CONV and second.inputs == second.outputs

    proven = any(is_sure(first, second) for first, second in pairwise(run))
    for first, second in pairwise(run):
        if (is_sure(first, second) or (proven and not is_parallel)) and not may_skip(first, second):
            link(first, second)
