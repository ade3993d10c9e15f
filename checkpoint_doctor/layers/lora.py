"""Low-rank adapters (LoRA): pairs of matrices that adapt another layer."""

from __future__ import annotations

import re

from checkpoint_doctor.layers.kinds import Kind
from checkpoint_doctor.layers.outlines import Draft, Shapes

_PEFT = re.compile(
    r"(?P<module>.*?)[./]?\blora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:[./](?P<adapter>(?!weight$|bias$)[^./]+))?(?:[./](?P<leaf>weight|bias))?"
)
_KOHYA = re.compile(
    r"(?P<module>.*?)[./](?P<part>(?:lora|lora_linear_layer)[._](?:up|down)|lora_mid|alpha|dora_scale|(?:up|down))"
    r"(?:[./](?P<leaf>weight|bias))?"
)
_PARTS = {
    "A": "lora_A",
    "B": "lora_B",
    "embedding_A": "lora_A",
    "embedding_B": "lora_B",
    "magnitude_vector": "magnitude",
    "dora_scale": "magnitude",
    "alpha": "alpha",
    "lora_mid": "lora_mid",
}


def place(name: str) -> tuple[tuple[str, str], str] | None:
    """Return ((adapted module, adapter's name), role) for a tensor of an adapter, ``None`` for any other.

    Reads peft's and loralib's ``lora_A``/``lora_B`` and the ``lora_down``/``lora_up`` of kohya and diffusers.
    """
    if "lora" not in name:
        return None
    match = _PEFT.fullmatch(name) or _KOHYA.fullmatch(name)
    if match is None:
        return None
    found = match.groupdict()
    part = found["part"]
    if part in ("up", "down") and not found["module"].endswith("lora"):
        return None
    role = _PARTS.get(part) or ("lora_A" if part.endswith("down") else "lora_B")
    if found["leaf"] == "bias":
        role += "_bias"
    return (found["module"], found.get("adapter") or ""), role


def resolve(module: str, adapter: str, members: dict[str, str], shapes: Shapes) -> Draft:
    """Return the draft of one adapter of one module, named after both."""
    name = module if module.endswith("lora") else ".".join(part for part in (module, "lora", adapter) if part)
    draft = Draft.of(name, members, shapes)
    draft.kind = Kind.LORA
    return draft
