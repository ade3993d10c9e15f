"""Which kind of layer a module's own tensors form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from checkpoint_doctor.layers.kinds import Kind
from checkpoint_doctor.layers.names import is_kernel, label_of, words
from checkpoint_doctor.layers.outlines import Draft

_NORM = re.compile(r"norm|(?<![a-z])(ln|bn|gn)(?![a-z])|^(ln|bn|gn)s?(?![a-z])|rms")
_BATCH = re.compile(r"batch_?(re)?norm|(?<![a-z])bns?(?![a-z])")
_GROUP = re.compile(r"(group|instance)_?norm|(?<![a-z])gns?(?![a-z])")
_LAYER = re.compile(r"layer_?norm|(?<![a-z])lns?(?![a-z])")

_EMBEDDING = re.compile(
    r"(?x) .*emb(s|d|ed|eds|edded|edder|edders|edding|eddings)?(_?\d+)? | wte | wpe | shared | relative_attention_bias"
    r"| .*_embedder_.*"
    r"| .*emb(ed|eds|edding|eddings)?_(tokens?|positions?|words?|in|layer|table|weights?|types?)(_?\d+)?"
    r"| (token|position|segment|char|word|item|user|entity|relation)s? | .*_marker | codebook(_?\d+)?"
)
_NO_EMBEDDING = frozenset(
    {"proj", "projection", "project", "linear", "fc", "out", "head", "mapping", "unembed", "patch"}
)
_FUSED_ATTENTION = re.compile(
    r"(.*_)?(qkv(_proj|_linear|_layer)?|w_?qkv|query_key_value|c_attn|w_pack|combined_projection|in_proj_qkv|proj_qkv)"
)
_TRANSPOSED_CONV = re.compile(
    r"deconv|conv_?transpose|transposed?_?conv|convtrans|conv_?t(?![a-z])|tconv|up_?conv|conv_?up(?![a-z])"
)
_UPSAMPLING = re.compile(r"ups?(_?\d+)?")


def is_floating(dtype: str) -> bool:
    """True for real and complex floating-point types, named as PyTorch prints them."""
    return dtype.startswith(("float", "bfloat", "complex"))


@lru_cache(maxsize=8192)
def _plain(label: str) -> str:
    """Lower-case a label and separate camel case, so that ``LayerNorm`` and ``layer_norm`` are one."""
    return "_".join(words(label)) if any(map(str.isupper, label)) else label.lower().lstrip("_")


@lru_cache(maxsize=8192)
def _is_norm_label(label: str) -> bool:
    return _NORM.search(_plain(label)) is not None


@lru_cache(maxsize=8192)
def _is_fused_attention(label: str) -> bool:
    return _FUSED_ATTENTION.fullmatch(_plain(label)) is not None


def is_norm_name(path: tuple[str, ...]) -> bool:
    """Tell whether a module's name is that of a normalisation layer."""
    return _is_norm_label(label_of(path))


def infer_kind(draft: Draft, members: Iterable[str]) -> bool:
    """Set the draft's kind and whether its weight is transposed; ``False`` where its tensors form no layer."""
    shape = draft.main
    if "qweight" in draft.shapes:
        draft.kind = Kind.BUFFER
    elif shape is None:
        return _infer_without_weight(draft, set(members))
    elif "weight" in draft.dtypes and not is_floating(draft.dtypes["weight"]):
        draft.kind = Kind.BUFFER
    elif "running_mean" in draft.shapes or "running_var" in draft.shapes:
        draft.kind = Kind.BATCH_NORM
    elif len(shape) <= 1 or (shape == draft.shapes.get("bias") and 0 not in shape):
        draft.kind = _kind_of_vector(draft, shape)
    elif len(shape) == 2:
        _infer_matrix(draft, shape)
    elif len(shape) in (3, 4, 5):
        _infer_kernel(draft, shape)
    else:
        draft.kind = Kind.PARAMETER
    return True


def _infer_without_weight(draft: Draft, members: set[str]) -> bool:
    if draft.shapes.keys() & {"q_proj_weight", "k_proj_weight", "v_proj_weight"}:
        draft.kind = Kind.ATTENTION
        return True
    if {"running_mean", "running_var"} <= draft.shapes.keys():
        # A batch norm without gain has a counter or a norm's name. Without either, these are observation statistics.
        counted = "num_batches_tracked" in draft.shapes
        named = "count" not in members and is_norm_name(draft.path)
        draft.kind = Kind.BATCH_NORM if counted or named else Kind.BUFFER
        return True
    return False


def _kind_of_vector(draft: Draft, shape: tuple[int, ...]) -> Kind:
    """Return the kind of norm; PReLU slopes and scales, without bias and without a norm's name, are parameters."""
    label = _plain(label_of(draft.path))
    named = _is_norm_label(label_of(draft.path))
    bias = draft.shapes.get("bias")
    if not shape or (bias is not None and bias != shape) or (not named and (bias is None or shape in ((0,), (1,)))):
        return Kind.PARAMETER
    if _BATCH.search(label):
        return Kind.BATCH_NORM
    if _GROUP.search(label):
        return Kind.GROUP_NORM
    if bias is None:
        return Kind.RMS_NORM
    if "rms" in label and not _LAYER.search(label):
        return Kind.RMS_NORM
    if not _LAYER.search(label) and _is_beside_convolutions(draft.path):
        return Kind.GROUP_NORM
    return Kind.LAYER_NORM


def _is_beside_convolutions(path: tuple[str, ...]) -> bool:
    """Tell whether a norm is a group norm of a diffusion U-Net: there, only transformer blocks use layer norms."""
    if "transformer_blocks" in path or "transformer" in path:
        return False
    return (
        any(element in ("resnets", "in_layers", "out_layers", "res_blocks") for element in path)
        or path[-1:] == ("conv_norm_out",)
        or (len(path) >= 3 and path[-3] == "attentions" and path[-1] in ("norm", "group_norm"))
    )


def _infer_matrix(draft: Draft, shape: tuple[int, ...]) -> None:
    label = label_of(draft.path)
    bias = draft.shapes.get("bias")
    if "in_proj_weight" in draft.parts.get("weight", "").rpartition(".")[2] or _FUSED_ATTENTION.fullmatch(
        _plain(label)
    ):
        draft.kind = Kind.ATTENTION
    elif draft.parts.get("weight", "").endswith((".embedding", "/embedding", ".embeddings", "/embeddings")) or (
        bias is None and len(draft.shapes) == 1 and _is_embedding_label(label)
    ):
        draft.kind = Kind.EMBEDDING
    else:
        draft.kind = Kind.LINEAR
    if draft.kind is Kind.EMBEDDING:
        return
    if bias is not None and len(bias) == 1 and shape[0] != shape[1]:
        draft.transposed = bias[0] == shape[1]
    elif is_kernel(draft.parts.get("weight", "")) or draft.parts.get("weight", "").endswith((".w", "/w")):
        draft.transposed = True


@lru_cache(maxsize=8192)
def _is_embedding_label(label: str) -> bool:
    plain = _plain(label)
    return _EMBEDDING.fullmatch(plain) is not None and not _NO_EMBEDDING & set(words(plain))


def _infer_kernel(draft: Draft, shape: tuple[int, ...]) -> None:
    """Set the kind of a layer with a kernel. A transposed convolution's bias has the length of the second dimension."""
    if is_kernel(draft.parts.get("weight", "")):
        draft.kind, draft.transposed = Kind.KERNEL, True
        return
    label = _plain(label_of(draft.path))
    bias = draft.shapes.get("bias")
    if (bias is not None and len(bias) != 1) or "bilinear" in label:
        draft.kind = Kind.PARAMETER
        return
    draft.kind = Kind.ATTENTION if _is_fused_attention(label) else Kind.CONV
    if bias is not None and bias[0] != shape[0]:
        draft.transposed = bias[0] % max(shape[1], 1) == 0
    elif bias is None or shape[0] == shape[1]:
        even = all(size % 2 == 0 for size in shape[2:])
        draft.transposed = bool(_TRANSPOSED_CONV.search(label)) or (even and bool(_UPSAMPLING.fullmatch(label)))
