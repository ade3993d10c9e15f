"""Zeros that are normal: layers that start at zero, or stay there, by design.

Layers are recognised by the names that they have in the cited sources, and by the layers around them. Each entry gives
the reason. A name never excuses zeros that, by the optimizer's moments, were written over trained values.
"""

from __future__ import annotations

import re

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import NORMS, Kind
from checkpoint_doctor.layers.attention import KEY_BIAS

_BY_DESIGN: tuple[tuple[str, str], ...] = (
    (r"lora_(B|up)\b|lora_embedding_A|lora_B\.", "LoRA's second factor starts at zero (Hu et al., 2106.09685)"),
    (r"adapter.*\bup", "an adapter's up-projection starts at zero (Houlsby et al., 1902.00751)"),
    (
        r"zero_convs?\b|controlnet_(down|mid)_block|middle_block_out|input_hint_block|motion.*proj_out",
        "ControlNet's zero convolutions (Zhang et al., 2302.05543)",
    ),
    (r"out_layers\.3\.|(^|\.)out\.2\.|(^|\.)proj_out\.", "a diffusion network's zero module (guided-diffusion)"),
    (
        r"adaLN_modulation|ada_?ln|final_layer\.linear|norm\d?(_context)?\.linear\.",
        "adaLN-Zero modulation (Peebles & Xie, 2212.09748)",
    ),
    (
        r"resweight|rezero|skip_?(init_)?gain|fixup|(^|\.)scalar_(gate|gain)",
        "ReZero, SkipInit and Fixup start a residual branch at zero (2003.04887, 2002.10444, 1901.09321)",
    ),
    (
        r"(cls|mask|dist|register|class)_?(token|embedding)s?$|pos(ition(al)?)?_?emb(ed(ding)?s?)?(\.weight)?$",
        "a learned token or position table that starts at zero (timm, DETR)",
    ),
    (r"relative_position_bias_table", "a relative position table that starts at zero (BEiT)"),
    (
        r"(^|\.)(conv_)?offset(_mask|_conv)?\.(weight|bias)|sampling_offsets\.|attention_weights\.",
        "deformable offsets start at zero (Dai et al., 1703.06211; Zhu et al., 2010.04159)",
    ),
    (r"(readout|lm_head|c_proj)\.weight", "a zero-initialised readout (µP, Yang et al., 2203.03466)"),
)

_BIAS_BY_DESIGN: tuple[tuple[str, str], ...] = (
    (KEY_BIAS, "softmax ignores a shift of all keys, so a key bias receives no gradient (2006.16362)"),
    (
        r"in_proj_bias$|out_proj\.bias$",
        "PyTorch's attention starts its biases at zero (torch.nn.MultiheadAttention)",
    ),
    (
        r"(^|\.)(e_score_)?correction_bias$|(^|\.)score_bias$",
        "a correction that starts at zero and is not updated by gradient descent",
    ),
)


def is_padded_head(layer: Layer, tensor: Tensor, rows: list[int]) -> bool:
    """True where the zero rows of a head are its last ones and fill it up to a multiple of 8 or a larger power of 2."""
    count = tensor.shape[layer.unit_axis or 0]
    if not rows or not layer.is_output:
        return False
    multiple = 8
    while multiple <= len(rows):
        multiple *= 2
    return count % multiple == 0 and rows[0] == count - len(rows)


def explain_zero_weight(tensor: Tensor) -> str | None:
    """Return the reason why a weight may be exactly zero by design, ``None`` where none is known."""
    return _look_up(tensor.name, _BY_DESIGN)


def explain_zero_bias(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> str | None:
    """Return the reason why a bias may be exactly zero by design, ``None`` where none is known."""
    if layer.kind in NORMS:
        return "a norm's bias starts at zero"
    if layer.following is not None:
        follower = checkpoint.layer_by_name.get(layer.following)
        if follower is not None and follower.kind is Kind.BATCH_NORM:
            return "the BatchNorm that follows subtracts any bias, so it receives no gradient"
    return _look_up(tensor.name, _BIAS_BY_DESIGN + _BY_DESIGN)


def _look_up(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    return next((reason for pattern, reason in table if re.search(pattern, name, re.IGNORECASE)), None)
