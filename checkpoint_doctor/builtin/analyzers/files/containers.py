"""The file itself: damage, code in it, tensors without elements."""

from __future__ import annotations

import re
from collections.abc import Iterator

from checkpoint_doctor.builtin.analyzers.files._executable_names import can_execute, describes_settings
from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import quantity


@rule("FIL001", "damaged-container", Severity.ERROR, on=Checkpoint, part=("member",), reads_values=False)
def damaged_container(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The file could be read, but its container is damaged.

    Why it matters:
        A wrong checksum, contradictory sizes, or bytes behind the end mean that the file is not what was saved: an
        interrupted copy, a faulty disk, or an editor that saved it as text. Libraries detect different kinds of damage,
        so a file that loads in one may fail, or load wrong numbers, in another.

    When it is normal:
        Never for a checksum. Bytes behind the end of a safetensors file or a pickle are ignored by some libraries and
        are an error in others.

    What to do:
        Copy or download the file again and compare its size and hash with the original. Save atomically: write to
        a temporary file, flush it to disk, then rename it.

    References:
        PKWARE APPNOTE 4.3.7 (CRC-32 of zip members); safetensors' format description; Lightning issue 19970 on
        truncated files after an interrupted save.
    """
    for flaw in checkpoint.damage:
        sizes = "" if flaw.expected is None else f": expected {flaw.expected:,}, found {flaw.found or 0:,}"
        where = f"{flaw.member}: " if flaw.member and flaw.member not in flaw.message else ""
        yield damaged_container.finding(
            f"{where}{flaw.message}{sizes}",
            checkpoint,
            evidence={"member": flaw.member, "expected": flaw.expected, "found": flaw.found},
        )


@rule("FIL002", "unsafe-pickle", Severity.ERROR, on=Checkpoint, part=("effect",), worse=("names",), reads_values=False)
def unsafe_pickle(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A pickle in the file imports functions that can run code when another program loads it.

    Why it matters:
        ``pickle.load`` and ``torch.load(weights_only=False)`` import whatever a pickle names and call it. A file that
        names ``os.system`` runs a command on the machine of everyone who opens it. ckdoc itself reads pickles without
        importing or calling anything.

    When it is normal:
        Pickled modules name the classes of the program that wrote them. ckdoc does not import them, so they are a note.
        Stable-Baselines3 stores schedules by value with cloudpickle (see FIL004).

    What to do:
        Do not load the file. Ask its author for a state dict saved as safetensors, or load it with
        ``weights_only=True``. ckdoc is no malware scanner: a file without this finding is not proven to be safe.

    References:
        Python's pickle documentation, "Warning"; CVE-2025-32434; fickling and picklescan on how lists of forbidden
        names are bypassed.
    """
    executable = [each for each in checkpoint.pickled_names if can_execute(each, checkpoint)]
    if executable:
        names = sorted({each.qualified for each in executable})
        called = any(each.called for each in executable)
        yield unsafe_pickle.finding(
            f"loading it with pickle would {'call' if called else 'import'} {_enumerate(names)}; ckdoc did not",
            checkpoint,
            evidence={
                "effect": "acts",
                "names": names,
                "members": sorted({each.member for each in executable}),
                "called": called,
            },
        )
    foreign = _foreign_classes(checkpoint)
    if foreign:
        yield unsafe_pickle.finding(
            f"its pickle names {quantity(len(foreign), 'class', 'classes')} of the program that wrote it "
            f"({_enumerate(foreign)}): not imported",
            checkpoint,
            severity=Severity.NOTE,
            evidence={"effect": "inert", "names": foreign},
        )


def _foreign_classes(checkpoint: Checkpoint) -> list[str]:
    """Return the names that are neither known, nor executable, nor part of Stable-Baselines3's settings."""
    return sorted(
        {
            each.qualified
            for each in checkpoint.pickled_names
            if not each.known and not can_execute(each, checkpoint) and not describes_settings(each, checkpoint)
        }
    )


def _enumerate(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


@rule("FIL003", "empty-tensor", Severity.ERROR, on=Checkpoint, worse=("tensors",), group_by=(), reads_values=False)
def empty_tensor(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A weight has no elements at all.

    Why it matters:
        DeepSpeed's ZeRO stage 3 leaves placeholders of shape [0] where the weights live on other ranks. Loaded for
        inference, such a file fails or, with ``strict=False``, silently keeps random weights. Where all weights are
        placeholders, the file gets one finding, a warning: it belongs to files that hold the weights.

    When it is normal:
        A layer without inputs or units, such as ``Linear(0, 32)``, has a weight of several dimensions with a 0 among
        them, and a bias that agrees with it. These and empty buffers are not reported. The layers of e3nn (SevenNet,
        MACE, NequIP) have an empty tensor for every parameter that they do without, such as a bias. ZeRO leaves no
        empty bias beside a whole weight, because it takes away the largest parameters first. Where a file has such a
        bias, or the output masks of e3nn beside weights with elements, its empty tensors are a note, unless other
        blocks of the model have elements at the same place, or the layer has a bias with elements.

    What to do:
        Gather the weights before saving: run ``zero_to_fp32.py`` in the checkpoint's folder, or save with
        ``stage3_gather_16bit_weights_on_model_save``.

    References:
        DeepSpeed issues 2413, 3090 and 7900.
    """
    weights = [
        (tensor, layer)
        for layer in checkpoint.layers
        for role, tensor in layer.tensors.items()
        if tensor.is_floating and role.startswith(("weight", "bias"))
    ]
    empty = {tensor.name: layer for tensor, layer in weights if _is_placeholder(tensor, layer)}
    if len(empty) == len(weights) > 1:
        names = list(empty)
        yield empty_tensor.finding(
            f"none of its {len(names):,} weights has elements ({_enumerate(names)}): they are placeholders, as "
            "ZeRO stage 3 leaves them, and not the weights",
            checkpoint,
            severity=Severity.WARNING,
            evidence={"tensors": names},
            advice="Gather the weights before saving: run zero_to_fp32.py in the checkpoint's folder.",
        )
        return
    whole = {_NUMBER.sub("#", tensor.name) for tensor, _ in weights if tensor.size}
    with_unused = any(_has_unused_bias(layer) for layer in empty.values()) or _is_of_e3nn(checkpoint)
    for name, layer in empty.items():
        is_missing = _misses_weight(layer, whole) if with_unused else True
        tensor = checkpoint.by_name[name]
        yield empty_tensor.finding(
            f"has no elements (shape {list(tensor.shape)}): "
            + ("a placeholder, not the weights" if is_missing else "a parameter that the layer does without"),
            tensor,
            severity=Severity.ERROR if is_missing else Severity.NOTE,
            evidence={"shape": list(tensor.shape), "tensors": [name]},
        )


_NUMBER = re.compile(r"\d+")


def _is_placeholder(tensor: Tensor, layer: Layer) -> bool:
    """Return whether a weight has shape [0], and no weight of the layer has as many rows."""
    return tensor.shape == (0,) and not any(
        len(other.shape) > 1 and other.shape[0] == 0 for other in layer.tensors.values()
    )


def _has_unused_bias(layer: Layer) -> bool:
    """Return whether a layer has a weight with elements, and a bias without."""
    return layer.weight is not None and layer.weight.size > 0 and layer.bias is not None and not layer.bias.size


def _is_of_e3nn(checkpoint: Checkpoint) -> bool:
    """Return whether a weight with elements stands beside the ``output_mask`` that e3nn's layers have."""
    return any(
        name.endswith(".output_mask") and (weight := checkpoint.by_name.get(name[:-11] + "weight")) and weight.size
        for name in checkpoint.by_name
    )


def _misses_weight(layer: Layer, whole: set[str]) -> bool:
    """Return whether a layer must have a weight that is empty: it has a bias, or the same layer of another block does.

    ``whole`` holds the names of all tensors with elements, their numbers replaced by ``#``.
    """
    if layer.weight is None or layer.weight.size:
        return False
    return (layer.bias is not None and layer.bias.size > 0) or _NUMBER.sub("#", layer.weight.name) in whole


@rule("FIL004", "code-in-schedule", Severity.NOTE, on=Checkpoint, reads_values=False)
def code_in_schedule(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A Stable-Baselines3 schedule is stored as pickled code, which other Python versions may not load.

    Why it matters:
        Before SB3 2.7, ``learning_rate``, ``clip_range`` and exploration schedules are saved as Python bytecode.
        Loading them under another Python version fails, or crashes the interpreter.

    When it is normal:
        In every file saved by SB3 before 2.7. The weights are not affected.

    What to do:
        Pass ``custom_objects`` with the values in the message when loading. Save again with SB3 2.7 or later, which
        stores schedules as plain objects.

    References:
        stable-baselines3 issues 172, 1122 and 2115; FloatSchedule in SB3 2.7.
    """
    schedules = {
        name: setting
        for name, setting in checkpoint.hyperparameters.items()
        if isinstance(setting, dict) and setting.get("stored_as") == "code"
    }
    if not schedules:
        return
    values = {name: setting.get("value") for name, setting in schedules.items()}
    line = ", ".join(f'"{name}": lambda _: {value!r}' for name, value in values.items() if value is not None)
    versions = " and ".join(
        f"{label} {checkpoint.versions[key]}"
        for key, label in (("stable_baselines3", "SB3"), ("python", "Python"))
        if key in checkpoint.versions
    )
    yield code_in_schedule.finding(
        f"{_enumerate(sorted(schedules))} stored as Python code{f' of {versions}' if versions else ''}"
        + (f"; if loading fails, pass custom_objects={{{line}}}" if line else ""),
        checkpoint,
        evidence={"schedules": values},
    )
