"""Names of modules and tensors: their words, paths, numbers and roles."""

from __future__ import annotations

import re
from functools import lru_cache

WRAPPERS = frozenset({"module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Path elements that frameworks insert. They say nothing about a layer."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

ROLES = frozenset(
    {
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
        *(f"{tensor}_{part}" for tensor in ("weight", "bias") for part in ("orig", "mask", "mu", "sigma", "epsilon")),
        *("weight_g", "weight_v", "weight_u", "spectral_u", "spectral_v"),
        *("weight_scale", "weight_scale_inv", "weight_zero_point", "weight_scale_2", "input_scale"),
        *("qweight", "qzeros", "scales", "g_idx", "SCB", "weight_format"),
    }
)
"""Names of tensors that belong to their module's layer, with their own name as the role."""

ALIASES = {
    "gamma": "weight",
    "beta": "bias",
    "scale": "weight",
    "g": "weight",
    "a_2": "weight",
    "b_2": "bias",
    "w": "weight",
    "b": "bias",
    "kernel": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "ra_mean": "running_mean",
    "ra_var": "running_var",
    "steps": "num_batches_tracked",
}
"""Other names for the same roles: TensorFlow's, Flax's, the annotated Transformer's, CrossQ's batch renormalisation."""

_BUFFER = re.compile(
    r"""(?x)
    position_ids | token_type_ids | (original_)?inv_freq | freqs?(_cis)? | (cos|sin)(_cached|_table)? | masked_bias
    | (.*_)?(attn|attention|causal|future|src|tgt|key_padding|valid)?_?mask | tril | triu | pe
    | num_batches_tracked | (.*_)?(counts?|counter|num_updates|n_updates|initialized|initted|global_step) | steps?
    | (log_one_minus_|one_minus_)?(sqrt_)?(recip(m1)?_|one_minus_|log_one_minus_)*(alphas|betas)(_cumprod(_prev)?)?
    | sqrt_(recip|recipm1|one_minus)_alphas_cumprod | posterior_.* | log_one_minus_alphas_cumprod | sigmas | logvar_init
    | running_(mean|var|std) | mean | var | std | (_?ema_)?cluster_size | embed_avg
    | _?ema_(w|embed|embeddings?|dw) | anchors | anchor_grid
    | relative_position_index | relative_coords_table
    | _float_tensor | version | zero_point | absmax | nested_absmax | (nested_)?quant_map | quant_state.*
    | _?amax | (input|output|k|v|q|weight)_scale(_inv)? | bitsandbytes__.* | scales | qzeros | g_idx | SCB
    | weight_(u|mask|epsilon) | bias_(mask|epsilon) | _extra_state
    """
)


@lru_cache(maxsize=8192)
def is_buffer_name(leaf: str) -> bool:
    """Tell whether a tensor outside of any layer is a buffer by its name: not learned."""
    return _BUFFER.fullmatch(leaf) is not None


@lru_cache(maxsize=8192)
def words(name: str) -> tuple[str, ...]:
    """Split one path element into its lower-case words: ``LayerNorm`` → layer, norm; ``bn1`` → bn, 1."""
    return tuple(word.lower() for word in _WORDS.findall(name))


def split(name: str) -> tuple[str, str]:
    """Split a tensor's name at the last dot or slash into its module's and its own, without TensorFlow's ``:0``."""
    name = name.removesuffix(":0")
    at = max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at >= 0 else ("", name)


def is_kernel(name: str) -> bool:
    """Tell whether a tensor is a kernel by its name, as Keras, Flax and TensorFlow call them: its outputs come last.

    Those of a recurrent layer are ``kernel_ih`` and ``kernel_hh``, after the weights of PyTorch.
    """
    return split(name)[1] in ("kernel", "kernel_ih", "kernel_hh")


def path_of(module: str) -> tuple[str, ...]:
    """Split a module's name at its dots and slashes, without the wrappers at its end."""
    wrapper, slash, rest = module.partition("/")
    path = ([wrapper, *rest.replace("/", ".").split(".")] if slash else wrapper.split(".")) if module else []
    while path and (path[-1] in WRAPPERS or path[-1] == "base_layer"):
        path.pop()
    return tuple(path)


def label_of(path: tuple[str, ...]) -> str:
    """Return the last path element that is neither a number nor a wrapper: ``blocks.norms.0`` → ``norms``."""
    for element in reversed(path):
        if not element.isdigit() and element not in WRAPPERS:
            return element
    return ""


@lru_cache(maxsize=8192)
def numbered(label: str) -> tuple[str, int] | None:
    """Split ``conv2`` or ``conv_2`` into its stem and its number; ``None`` where there is no number or no stem."""
    stem = label.rstrip("0123456789")
    digits = label[len(stem) :]
    if not stem or not digits or len(digits) > 4 or not digits.isascii():
        return None
    return stem, int(digits)


@lru_cache(maxsize=8192)
def index_of(label: str) -> int | None:
    """Return the index of a member of a ``Sequential`` or list, ``None`` for any other name."""
    return int(label) if label.isascii() and label.isdigit() and len(label) <= 6 else None
