"""Causes outside training: code that wrote values, files that were damaged or hold the wrong thing."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.causes._facts import (
    OVERWRITTEN,
    about,
    are_most_of_a_kind,
    has_overflowed,
    has_torn_page,
    is_fresh_part,
    names_of,
    number_of,
    rows_were_trained_apart,
    was_drawn_wide,
)
from checkpoint_doctor.builtin.causes._remedies import KEEP_BEST, SAVE_STATE
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.plugins.cause import Claim, Symptoms, cause
from checkpoint_doctor.results.diagnosis import Certainty, Prognosis
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.text import quantity

_IMPOSSIBLE = 1e30
"""A weight beyond this is no result of training in float32, whose squares would overflow."""


@cause("overwritten", Prognosis.CURED)
def overwritten(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Code wrote values over trained ones: a reset, a repair script, an initialisation applied again.

    How we know:
        Values are exactly zero, exactly one, a constant, or equal to those of another block, and the optimizer's second
        moments show that they were trained: a gradient step does not set a parameter to such a number.

    What else it could be:
        Pruning, which also writes zeros under living moments, but scattered ones, or whole units by their size.

    What to do:
        Look for code that writes parameters after training. ``ckdoc fix`` draws what was overwritten anew; what it had
        learned is lost, so an earlier checkpoint is better.

    References:
        Rules ZER001 to ZER004, NET002, NET009, OPT010, NRM001, RNN001, RNN002 and VAL005.
    """
    codes = ("NET002", "NET003", "NRM001", "RNN001", "RNN002", "RNN004", "ZER001", "ZER003", "ZER004")
    proof = [
        *symptoms.of(*codes, cause=OVERWRITTEN),
        *symptoms.of("NET009"),
        *(each for each in symptoms.of("RNN003") if _was_enlarged(each, checkpoint)),
        *(each for each in symptoms.of("OPT010") if not is_fresh_part(each, symptoms, checkpoint)),
        *(
            each
            for each in symptoms.of("VAL005", "NET004")
            if any(rows_were_trained_apart(name, checkpoint, each) for name in names_of(each))
        ),
    ]
    if proof:
        tensors = sorted({name for each in proof for name in names_of(each) if name in checkpoint.by_name})
        what = ", ".join(tensors[:3]) + (f" and {len(tensors) - 3} more" if len(tensors) > 3 else "")
        yield overwritten.claim(
            proof,
            ""
            if len(proof) == 1
            else f"{what or proof[0].subject} {'was' if len(tensors) < 2 else 'were'} trained, and then overwritten",
            consequences=[
                *symptoms.of("NET005", "ZER002", "NET002", "NET004", "RNN001", "RNN002", "ZER003", "ZER004"),
                *about(symptoms.of("NET001"), tensors),
            ],
            evidence={"tensors": tensors} if len(proof) > 1 else None,
        )


@cause("pruned", Prognosis.POINTLESS)
def pruned(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Zeros were made on purpose or by accident: scattered over weights by their size, by a mask, or by chance.

    How we know:
        Exact zeros are scattered over matrices. Their other values keep away from zero, as after pruning by magnitude,
        or the moments show that the zeros were trained.

    What else it could be:
        Values that underflowed in half precision.

    What to do:
        Nothing where the network was pruned on purpose: name its tensors in an ignore. Otherwise look for the script.

    References:
        Rule ZER002.
    """
    findings = symptoms.of("ZER002")
    if findings:
        yield pruned.claim(
            findings,
            f"zeros are scattered over {quantity(len(findings), 'weight')}, as after pruning"
            if len(findings) > 1
            else "",
            consequences=symptoms.of("NET002", "NET005"),
            certainty=Certainty.LIKELY,
        )


@cause("saved-wrong-object", Prognosis.POINTLESS)
def saved_wrong_object(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The file holds something else than was meant: the initial weights, a scheduler, a bound method.

    How we know:
        The parameters are the initial ones although the moments show training at a rate that must have moved them; or
        under the name of a state dict lies an object of another kind.

    What else it could be:
        Weights that were drawn again after training.

    What to do:
        Save ``copy.deepcopy(model.state_dict())`` for the best model, and call ``state_dict()`` with its parentheses.

    References:
        Rules OPT009 and RES007. PyTorch's tutorial on saving and loading models.
    """
    for finding in symptoms.of("OPT009", cause="initial weights saved"):
        yield saved_wrong_object.claim(
            [finding],
            consequences=[
                *symptoms.of("NET003", "NRM001", "RNN001", "RNN002", "ZER001", "ZER003", "ZER004", cause=OVERWRITTEN),
                *symptoms.of("NRM003", cause="never updated"),
                *symptoms.of("NET009"),
            ],
            remedy=KEEP_BEST.line(checkpoint),
        )
    for finding in symptoms.of("RES007"):
        yield saved_wrong_object.claim(
            [finding], consequences=symptoms.of("FIL002", "OPT002"), remedy=SAVE_STATE.line(checkpoint)
        )


@cause("rounded", Prognosis.POINTLESS)
def rounded(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """The values lie on a grid: they were rounded, or stored without their scale.

    How we know:
        All values of all weights are multiples of one decimal step, or integers, and nothing in the file says that they
        are quantised.

    What else it could be:
        A fixed-point format with a scale that is kept elsewhere.

    What to do:
        Export the weights again as binary numbers, or with their scales.

    References:
        Rule VAL007.
    """
    for finding in symptoms.of("VAL007"):
        yield rounded.claim([finding], consequences=symptoms.of("VAL002", "ZER002"), certainty=Certainty.PROVEN)


@cause("corrupted-values", Prognosis.CURED)
def corrupted_values(checkpoint: Checkpoint, symptoms: Symptoms) -> Iterator[Claim]:
    """Bytes of the file were changed: flipped bits, swapped or shifted bytes, lost scales, a torn write.

    How we know:
        A few values are impossible (NaN among sound neighbours with sound moments, 1e36, denormal numbers throughout),
        or the container's checksums and lengths do not fit.

    What else it could be:
        A single infinite gradient, which also spoils the moments of the same entries.

    What to do:
        Compare the file with its source (size, SHA-256), and copy it again.

    References:
        Rules FIL001, VAL001, VAL002, VAL003 and VAL006.
    """
    damaged = symptoms.of("FIL001")
    if damaged:
        yield corrupted_values.claim(damaged, consequences=symptoms.of("VAL001", "VAL002", "VAL003", "VAL006"))
        return
    has_spoiled_moments = any(each.evidence.get("moment") is not None for each in symptoms.of("VAL001"))
    torn = [
        each
        for each in symptoms.of("NET002", "ZER001", "ZER002", "ZER003")
        if any(has_torn_page(checkpoint.by_name[name]) for name in names_of(each) & checkpoint.by_name.keys())
    ]
    if torn:
        yield corrupted_values.claim(
            torn,
            f"the zeros of {torn[0].subject} are whole pages of 4 KiB that end within a row: a write was torn",
            consequences=symptoms.of("NET002", "ZER002"),
        )
    enlarged = [each for each in symptoms.of("VAL002") if _was_enlarged(each, checkpoint)]
    unexplained = [] if are_most_of_a_kind(enlarged, checkpoint) else enlarged
    impossible = [
        *(each for each in symptoms.of("VAL002") if number_of(each, "largest") > _IMPOSSIBLE),
        *(each for each in symptoms.of("VAL001") if not has_spoiled_moments and _is_scattered(each, checkpoint)),
        *unexplained,
        *symptoms.of("VAL003"),
        *symptoms.of("VAL006"),
    ]
    if impossible:
        yield corrupted_values.claim(
            impossible,
            consequences=symptoms.of("VAL001", "VAL002", "VAL003", "NET005", "NRM002", "OPT008", "ZER002", "RNN005"),
            certainty=Certainty.PROVEN if number_of(impossible[0], "largest") > _IMPOSSIBLE else Certainty.LIKELY,
        )


def _was_enlarged(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for a tensor that is larger than all of its updates together can have made it."""
    named = (checkpoint.by_name[name] for name in names_of(finding) & checkpoint.by_name.keys())
    return any(was_drawn_wide(tensor, checkpoint) for tensor in named)


def _is_scattered(finding: Finding, checkpoint: Checkpoint) -> bool:
    """True for NaN and infinities in a part of a tensor only, other than those of an overflow."""
    if has_overflowed(finding, checkpoint):
        return False
    bad, count = number_of(finding, "nan") + number_of(finding, "infinite"), number_of(finding, "count")
    return 0 < bad < 0.5 * count
