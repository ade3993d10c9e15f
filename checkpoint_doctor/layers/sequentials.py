"""Chains of numbered layers: ``Sequential``, and module lists that are used like one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from checkpoint_doctor.layers.kinds import Kind
from checkpoint_doctor.layers.links import feeds, link
from checkpoint_doctor.layers.names import index_of, words
from checkpoint_doctor.layers.outlines import Draft

_PARALLEL = frozenset(
    {
        *("head", "heads", "expert", "experts", "branch", "branches", "towers", "streams", "members", "nets", "models"),
        *("critic", "critics", "actors", "ensemble", "ensembles", "outputs", "classifiers", "predictors"),
        *("encoders", "decoders", "embeds", "embeddings", "lins", "projs", "projections"),
    }
)
"""Words in the names of module lists whose members run in parallel, so that equal sizes prove no order."""


def connect_sequentials(drafts: Sequence[Draft]) -> None:
    """Link the neighbours in every chain of numbered layers."""
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
    """Tell whether a draft keeps the number of features in a sequence: PReLU's slopes, a buffer."""
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
    # Without a bias, only its neighbours show that a convolution is stored inputs first, as in DCGAN's generator.
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
    """Link a run of numbered neighbours whose sizes fit, unless they might be parallel.

    Numbers without gaps may be a list of parallel layers. A change of size or of kind along the run shows that the
    layers follow each other; equal square layers without such a change are not linked.
    """
    if len(run) < 2:
        return
    is_parallel = not _PARALLEL.isdisjoint(words(run[0].parent[-1])) if run[0].parent else False

    def is_sure(first: Draft, second: Draft) -> bool:
        if (index_of(second.label) or 0) - (index_of(first.label) or 0) > 1 or first.kind is not second.kind:
            return True
        return not is_parallel and not first.inputs == first.outputs == second.inputs == second.outputs

    def may_skip(first: Draft, second: Draft) -> bool:
        """Tell whether a residual connection may skip the second layer, as in lists of residual convolutions."""
        is_list = (index_of(second.label) or 0) - (index_of(first.label) or 0) == 1 and first.kind is second.kind
        return is_list and second.kind is Kind.CONV and second.inputs == second.outputs

    proven = any(is_sure(first, second) for first, second in pairwise(run))
    for first, second in pairwise(run):
        if (is_sure(first, second) or (proven and not is_parallel)) and not may_skip(first, second):
            link(first, second)
