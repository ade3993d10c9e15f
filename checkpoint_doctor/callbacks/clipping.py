"""Learns of the clipping of gradients, which hides from an optimizer's hooks how large they were.

While something listens, two functions of ``torch.nn.utils`` are replaced by ones that tell it and then do the same.
``clip_grad_norm_`` computes the norm anyway, so that to watch it costs next to nothing; it is caught at the functions
that it calls, since code may hold on to a name of its own for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch.nn.utils import clip_grad


class Listener(Protocol):
    """What wants to know of clipping."""

    def before_clipping(
        self, parameters: Sequence[torch.Tensor], max_norm: float | None, norm: torch.Tensor | None
    ) -> None:
        """Be told that the gradients of some parameters are about to be clipped.

        Args:
            parameters: the parameters.
            max_norm: the norm that is left, ``None`` where single values are clipped.
            norm: the Euclidean norm of all of them, ``None`` where it was not computed.
        """


_listeners: WeakSet[Any] = WeakSet()
_originals: dict[str, Callable[..., Any]] = {}
_latest_order = 2.0
"""The order of the norm that was computed last."""


def listen(listener: Listener) -> None:
    """Tell something of every clipping from now on."""
    _listeners.add(listener)
    if not _originals:
        _install()


def stop_listening(listener: Listener) -> None:
    """Stop telling it. When nobody listens any more, PyTorch's functions are what they were."""
    _listeners.discard(listener)
    if not _listeners:
        for place, name in _places():
            if name in _originals:
                setattr(place, name, _originals[name])
        _originals.clear()


def _places() -> list[tuple[Any, str]]:
    inner = [(clip_grad, name) for name in ("_get_total_norm", "_clip_grads_with_norm_") if hasattr(clip_grad, name)]
    # Before PyTorch 2.6, the whole function must be replaced.
    outer = [] if len(inner) == 2 else [(clip_grad, "clip_grad_norm_"), (torch.nn.utils, "clip_grad_norm_")]
    return [*inner, *outer, (clip_grad, "clip_grad_value_"), (torch.nn.utils, "clip_grad_value_")]


def _install() -> None:
    replacements = {
        "_get_total_norm": _get_total_norm,
        "_clip_grads_with_norm_": _clip_grads_with_norm_,
        "clip_grad_norm_": _clip_grad_norm_,
        "clip_grad_value_": _clip_grad_value_,
    }
    for place, name in _places():
        _originals.setdefault(name, getattr(place, name))
        setattr(place, name, replacements[name])


def _tell(parameters: Any, max_norm: float | None, norm: Any) -> list[torch.Tensor]:
    listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    usable = norm if isinstance(norm, torch.Tensor) and not hasattr(norm, "placements") else None
    for listener in tuple(_listeners):
        listener.before_clipping(listed, max_norm, usable)
    return listed


def _get_total_norm(tensors: Any, norm_type: float = 2.0, *given: Any, **named: Any) -> Any:
    global _latest_order
    _latest_order = float(norm_type)
    return _originals["_get_total_norm"](tensors, norm_type, *given, **named)


def _clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, *given: Any, **named: Any) -> None:
    listed = _tell(parameters, float(max_norm), total_norm if _latest_order == 2.0 else None)
    _originals["_clip_grads_with_norm_"](listed, max_norm, total_norm, *given, **named)


def _clip_grad_norm_(parameters: Any, max_norm: float, *given: Any, **named: Any) -> Any:
    return _originals["clip_grad_norm_"](_tell(parameters, float(max_norm), None), max_norm, *given, **named)


def _clip_grad_value_(parameters: Any, clip_value: float, *given: Any, **named: Any) -> None:
    _originals["clip_grad_value_"](_tell(parameters, None, None), clip_value, *given, **named)
