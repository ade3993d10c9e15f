"""Zeros that are how a layer is meant to start or to stay, told by names and neighbours.

Each entry says why in words that fit behind "exactly zero, which is normal: …". The names are those that the layer's
authors gave it in the cited source; a name alone never excuses a tensor that the optimizer's moments convict.
"""

from __future__ import annotations

import re
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Layer, Tensor
from checkpoint_doctor.layers import Kind

NORMS = (Kind.LAYER_NORM, Kind.RMS_NORM, Kind.BATCH_NORM, Kind.GROUP_NORM)
"""Layers whose bias starts at zero and may stay there."""

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
    (
        r"(^|[._])(k|key)(_proj|_lin|_linear)?\.bias$",
        "softmax ignores a shift of all keys, so a key bias receives no gradient (2006.16362)",
    ),
    (
        r"in_proj_bias$|out_proj\.bias$",
        "PyTorch's attention starts its biases at zero (torch.nn.MultiheadAttention)",
    ),
    (
        r"(^|\.)(e_score_)?correction_bias$|(^|\.)score_bias$",
        "a correction that starts at zero and is moved outside gradient descent",
    ),
)

_FIXED_TRANSFORM = (
    r"(^|[._])(stft|fourier|fft|dct|dft|mel(_?scale)?|filter_?banks?|window|basis|sinc|sobel|laplac\w*|blur\w*)([._]|$)"
)


def is_fixed_transform(tensor: Tensor) -> bool:
    """True for weights that hold a formula and not what was learned: a Fourier basis, a mel filter bank, a blur.

    The sine of frequency zero is a row of zeros, and symmetric filters repeat rows.
    """
    return re.search(_FIXED_TRANSFORM, tensor.name, re.IGNORECASE) is not None


def explain_zero_weight(tensor: Tensor) -> str | None:
    """Say why a weight may be exactly zero by design, ``None`` where nothing excuses it."""
    return _look_up(tensor.name, _BY_DESIGN)


def explain_zero_bias(tensor: Tensor, layer: Layer, checkpoint: Checkpoint) -> str | None:
    """Say why a bias may be exactly zero by design, ``None`` where nothing excuses it."""
    if layer.kind in NORMS:
        return "a norm's bias starts at zero"
    if layer.following is not None:
        follower = checkpoint.layer_by_name.get(layer.following)
        if follower is not None and follower.kind is Kind.BATCH_NORM:
            return "the BatchNorm that follows subtracts any bias, so it receives no gradient"
    return _look_up(tensor.name, _BIAS_BY_DESIGN + _BY_DESIGN)


def is_drawn_by_transformers(layer: Layer) -> bool:
    """True where a layer's weight still is the N(0, 0.02) that transformers draws, beside biases of zero.

    ``initializer_range`` is 0.02 in BERT, GPT-2 and their descendants (transformers, ``_init_weights``). The width of
    the accepted band is four standard errors of the estimate, so that a trained layer falls outside.
    """
    weight = layer.weight
    if weight is None or weight.size < 64:
        return False
    statistics = weight.statistics
    if statistics.std is None or statistics.mean is None:
        return False
    error = 0.02 / sqrt(2 * weight.size)
    return bool(abs(statistics.std - 0.02) < 4 * error and abs(statistics.mean) < 4 * 0.02 / sqrt(weight.size))


def is_drawn_orthogonally(checkpoint: Checkpoint) -> bool:
    """True where every weight matrix still is the orthogonal matrix that it was drawn as: a network never trained.

    Policy gradient code draws orthogonal weights beside biases of zero (``torch.nn.init.orthogonal_``; Saxe et al.,
    1312.6120). Such a draw is orthogonal to 1e-6 in float32, and one update takes it a hundred times further away. One
    matrix that was trained is enough to make zeros beside it remarkable.
    """
    kinds = (Kind.LINEAR, Kind.CONV)
    weights = [each.weight for each in checkpoint.layers if each.kind in kinds and each.weight is not None]
    matrices = [each for each in weights if len(each.shape) > 1 and each.shape[0] > 1]
    return bool(matrices) and all(map(_is_orthogonal, matrices))


def _is_orthogonal(tensor: Tensor, tolerance: float = 1e-5, largest: int = 4096) -> bool:
    rows = tensor.shape[0]
    columns = tensor.size // rows
    norms = tensor.statistics.row_norms
    if tensor.dtype not in ("float32", "float64") or not 1 < min(rows, columns) <= largest or norms is None:
        return False
    if rows <= columns and norms.max() > norms.min() * (1 + 100 * tolerance):
        return False
    matrix = tensor.array.reshape(rows, columns)
    lines = matrix if rows <= columns else matrix.T
    # A few lines tell for nearly every trained matrix; all of them cost a product of cubic size.
    return _has_orthogonal_lines(lines[:8], tolerance) and _has_orthogonal_lines(lines, tolerance)


def _has_orthogonal_lines(lines: NDArray, tolerance: float) -> bool:
    wide = lines.astype(np.float64)
    gram = wide @ wide.T
    scale = float(np.trace(gram)) / len(gram)
    return scale > 0 and bool(np.abs(gram - scale * np.eye(len(gram))).max() < tolerance * scale)


def _look_up(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    return next((reason for pattern, reason in table if re.search(pattern, name, re.IGNORECASE)), None)
