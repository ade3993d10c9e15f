"""Infers an optimizer's class from the keys of its state and the options of its parameter groups."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from checkpoint_doctor.checkpoint.optimizers import Moments, ParameterGroup


class _Signature(Struct, frozen=True):
    """The keys and options by which an optimizer is recognized (``torch/optim/*.py``)."""

    kind: str
    keys: frozenset[str] | None = None
    """State keys that every parameter with state has; ``None`` where the state does not identify it."""
    options: frozenset[str] | None = None
    """Group options, used where no parameter has state; ``None`` where they do not identify it."""

    def matches(self, keys: set[str], options: set[str]) -> bool:
        by_keys = self.keys is not None and self.keys <= keys
        return by_keys or (self.options is not None and not keys and self.options <= options)


def _signature(kind: str, keys: str = "", options: str = "") -> _Signature:
    return _Signature(kind, frozenset(keys.split()) or None, frozenset(options.split()) or None)


_BY_STATE = (
    _signature("Adamax", keys="exp_avg exp_inf"),
    _signature("Adam", keys="exp_avg exp_avg_sq", options="betas eps"),
    _signature("Adadelta", keys="square_avg acc_delta", options="rho"),
    _signature("RMSprop", keys="square_avg", options="alpha centered"),
    _signature("Adagrad", keys="sum", options="initial_accumulator_value"),
    _signature("Rprop", keys="prev step_size", options="etas"),
    _signature("ASGD", keys="ax", options="lambd"),
    _signature("Lion", keys="exp_avg", options="betas"),
    _signature("Adafactor", keys="exp_avg_sq_row"),
    _signature("Adafactor", keys="row_var"),
)
"""The first that matches counts."""

_BY_OPTIONS = (
    _signature("Adafactor", options="scale_parameter"),
    _signature("Adafactor", options="beta2_decay"),
    _signature("Muon", options="ns_steps"),
    _signature("LBFGS", options="history_size"),
    _signature("SGD", options="nesterov"),
    _signature("SGD", options="lr momentum"),
)
"""Options that identify an optimizer whatever its state is; the first that matches counts."""


def infer_kind(parameters: Sequence[Moments], groups: Sequence[ParameterGroup]) -> str | None:
    """Return the optimizer's class, ``None`` where keys and options match none of PyTorch's.

    Adam and AdamW store the same before PyTorch 2.7; both are called ``Adam`` where they cannot be told apart.
    """
    keys = {key for moments in parameters for key in moments.state}
    options = {key for group in groups for key in group.options}
    kind = next((each.kind for each in _BY_STATE if each.matches(keys, options)), None)
    if kind is None:
        kind = next((each.kind for each in _BY_OPTIONS if each.matches(set(), options)), None)
    if kind is None and "momentum_buffer" in keys:
        return "SGD"
    if kind == "Adam":
        return _infer_adam_variant(keys, options, groups)
    return kind


def _infer_adam_variant(keys: set[str], options: set[str], groups: Sequence[ParameterGroup]) -> str:
    first = groups[0].options if groups else {}
    variants = (
        ("NAdam", "momentum_decay" in options),
        ("AMSGrad", "max_exp_avg_sq" in keys or first.get("amsgrad") is True),
        ("AdamW", first.get("decoupled_weight_decay") is True and "amsgrad" in options),
        ("AdamW", "correct_bias" in options),  # the AdamW of the transformers library
        ("SparseAdam", not {"amsgrad", "weight_decay"} & options),
        ("RAdam", "amsgrad" not in options and "decoupled_weight_decay" in options),
        ("Adamax", not keys and "amsgrad" not in options and "maximize" in options),
    )
    return next((name for name, holds in variants if holds), "Adam")
