"""The versions of the packages with which a Stable-Baselines3 zip was saved."""

from __future__ import annotations

from collections.abc import Mapping

from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.errors import UnreadableCheckpoint

LARGEST_TEXT = 1 << 16
PACKAGES = {
    "Stable-Baselines3": "stable_baselines3",
    "PyTorch": "torch",
    "Python": "python",
    "Numpy": "numpy",
    "Cloudpickle": "cloudpickle",
    "Gymnasium": "gymnasium",
    "OpenAI Gym": "gym",
    "Gym": "gym",
}
"""Labels in ``system_info.txt`` (``stable_baselines3.common.utils.get_system_info``) to packages."""
MACHINE = {"OS": "os", "GPU Enabled": "gpu"}
"""Labels in ``system_info.txt`` to keys of the metadata."""


def read_versions(members: Mapping[str, Member]) -> tuple[dict[str, str], dict[str, str]]:
    """Return package to version, and what ``system_info.txt`` (since SB3 1.3) contains about the machine."""
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    if version := _read_text(members.get("_stable_baselines3_version")).strip():
        versions["stable_baselines3"] = version[:40]
    for line in _read_text(members.get("system_info.txt")).splitlines():
        label, _, value = line.removeprefix("- ").partition(":")
        value = value.strip()[:200]
        if label in PACKAGES and value:
            versions.setdefault(PACKAGES[label], value)
        elif label in MACHINE and value:
            machine[MACHINE[label]] = value
    return versions, machine


def _read_text(member: Member | None) -> str:
    if member is None or member.size > LARGEST_TEXT:
        return ""
    try:
        return member.source.read(0, member.source.size).decode("utf-8", "replace")
    except UnreadableCheckpoint:
        return ""  # the damage is reported by its checksum
