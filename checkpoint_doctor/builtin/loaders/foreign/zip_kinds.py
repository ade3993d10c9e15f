"""Identifies a zip archive that is not a checkpoint by the names of its members."""

from __future__ import annotations

from collections.abc import Collection

from checkpoint_doctor.builtin.loaders._zip.archive import open_archive
from checkpoint_doctor.errors import NotACheckpoint, UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.text import quantity

CHECKPOINT_ENDINGS = (".pt", ".pth", ".ckpt", ".safetensors", ".zip", ".bin", ".th")
EXPORTED_PROGRAM = {"archive_format", "model.json"}
"""Members of what ``torch.export.save`` writes; before PyTorch 2.8 it wrote ``serialized_exported_program.json``."""


def name_zip(source: Source) -> UnreadableCheckpoint:
    """Return the error that says what a zip archive is.

    Raises:
        UnreadableCheckpoint: the archive is truncated or damaged.
    """
    names = open_archive(source).members.keys()
    if not names:
        return NotACheckpoint(f"{source.name} is an empty zip archive", "name a checkpoint file")
    kind, hint = _recognize(names)
    return NotACheckpoint(f"{source.name} is {kind}", hint)


def _recognize(names: Collection[str]) -> tuple[str, str]:
    leaves = {name.rpartition("/")[2] for name in names}
    if "data" in names and ("parameter_list" in names or "parameters" in names):
        return (
            "a Stable-Baselines 2 (TensorFlow) model, which contains no PyTorch tensors",
            "train it again with Stable-Baselines3, which cannot load files of Stable-Baselines 2",
        )
    if leaves >= EXPORTED_PROGRAM or "serialized_exported_program.json" in leaves:
        return (
            "an exported program without its weights (torch.export, .pt2)",
            "save the model's state dict with torch.save and scan that",
        )
    if "saved_model.pb" in leaves:
        return "a zipped TensorFlow SavedModel", "convert it to safetensors or to a PyTorch state dict first"
    if "[Content_Types].xml" in names:
        return "an Office document", "name a checkpoint file"
    nested = next((name for name in names if name.endswith("/policy.pth")), None)
    if nested:
        folder = nested.removesuffix("policy.pth")
        return (
            f"a zip archive of a folder: the Stable-Baselines3 model is in {folder}",
            "zip the files without their folder; Stable-Baselines3 cannot load this archive either",
        )
    inside = sorted(name for name in names if name.endswith(CHECKPOINT_ENDINGS))
    if inside:
        shown = ", ".join(inside[:3]) + (f" and {len(inside) - 3:,} more" if len(inside) > 3 else "")
        return f"a zip archive that contains {shown}", "unpack it and scan the files in it"
    return f"a zip archive of {quantity(len(names), 'file')}, none of them a checkpoint", "name a checkpoint file"
