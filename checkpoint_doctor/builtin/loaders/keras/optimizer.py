"""The state of a Keras optimizer: one or more variables for each trained variable of the model.

Where they are stored by number, they come in passes over the model's variables: Adam makes m and v of the first
variable, then those of the second, and with ``amsgrad`` the largest v of all variables after that
(``keras/src/optimizers``). Where they have names, these contain the name of the model's variable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from checkpoint_doctor.builtin.loaders.keras.model_config import ModelConfig
from checkpoint_doctor.checkpoint import Moments, Optimizer, ParameterGroup, Tensor

Shape = tuple[int, ...]

SLOTS = {
    "momentum": "exp_avg",
    "velocity": "exp_avg_sq",
    "velocity_hat": "max_exp_avg_sq",
    "norm": "exp_inf",
    "linear": "linear",
    "accumulator": "sum",
    "accumulated_grad": "square_avg",
    "accumulated_delta_var": "acc_delta",
    "average_gradient": "grad_avg",
    "average": "average",
    "gradient_accumulator": "gradient_accumulator",
    "m": "exp_avg",
    "v": "exp_avg_sq",
    "vhat": "max_exp_avg_sq",
    "rms": "exp_avg_sq",
    "mg": "grad_avg",
}
"""Keras's names of the variables to PyTorch's keys; the last five are those of Keras 2."""
_STEPS_IN_MOMENTUM = ("SGD", "RMSprop")
"""Optimizers whose ``momentum`` holds steps: PyTorch's keeps it as ``momentum_buffer``."""

_ADAM = ("momentum", "velocity")


class _Kind(Struct, frozen=True):
    """An optimizer of Keras."""

    name: str | None
    """PyTorch's name of it; ``None`` where rules have none."""
    passes: tuple[tuple[str, ...], ...]
    """The variables that it makes for each variable of the model, pass by pass."""
    defaults: Mapping[str, Any]


_BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
_KINDS = {
    "adam": _Kind("Adam", (_ADAM,), _BETAS),
    "adamw": _Kind("AdamW", (_ADAM,), {**_BETAS, "weight_decay": 0.004}),
    "nadam": _Kind("NAdam", (_ADAM,), _BETAS),
    "lamb": _Kind("LAMB", (_ADAM,), {**_BETAS, "epsilon": 1e-6}),
    "adamax": _Kind("Adamax", (("momentum", "norm"),), _BETAS),
    "adagrad": _Kind("Adagrad", (("accumulator",),), {"initial_accumulator_value": 0.1, "epsilon": 1e-7}),
    "adadelta": _Kind("Adadelta", (("accumulated_grad", "accumulated_delta_var"),), {"rho": 0.95, "epsilon": 1e-7}),
    "rmsprop": _Kind("RMSprop", (("velocity",),), {"rho": 0.9, "epsilon": 1e-7, "momentum": 0.0}),
    "sgd": _Kind("SGD", (), {"momentum": 0.0}),
    "ftrl": _Kind("FTRL", (("accumulator", "linear"),), {"initial_accumulator_value": 0.1}),
    "lion": _Kind("Lion", (("momentum",),), {"beta_1": 0.9, "beta_2": 0.99}),
}
"""Keras's classes in lower case, with the defaults of their options."""
_BEFORE = {"average": "use_ema", "gradient_accumulator": "gradient_accumulation_steps"}
"""The variables that any optimizer makes first, each in a pass of its own, and the option that asks for them."""


class Slots(Struct, frozen=True):
    """The state of one variable of the model."""

    variable: str | None
    """The name of its tensor."""
    state: Mapping[str, Tensor]
    """Keras's names of the optimizer's variables to these."""


class KerasOptimizer(Struct):
    """What a file says of an optimizer besides its moments."""

    name: str
    """Its own name, which is that of its class unless the user gave it another."""
    iteration: int | None = None
    learning_rate: float | None = None


def is_known(optimizer: KerasOptimizer, config: ModelConfig) -> bool:
    """Tell whether it is known which variables an optimizer makes."""
    return _class_of(optimizer, config) in _KINDS


def split_slots(
    optimizer: KerasOptimizer, config: ModelConfig, variables: Sequence[Tensor]
) -> Iterator[tuple[list[Shape], list[dict[str, Tensor]]]]:
    """Yield the ways to read numbered variables: the shapes of the model's variables, and the state of each.

    Args:
        optimizer: what else is known of it.
        config: the model's configuration.
        variables: its variables in their order, without the count and the learning rate.
    """
    if _class_of(optimizer, config) == "nadam" and variables and not variables[-1].shape:
        variables = variables[:-1]  # the product of its schedule
    for passes in _possible_passes(_class_of(optimizer, config), config):
        width = sum(map(len, passes))
        count, rest = divmod(len(variables), width) if width else (0, 1)
        if not count or rest:
            continue
        states: list[dict[str, Tensor]] = [{} for _ in range(count)]
        at = 0
        for names in passes:
            for state in states:
                state.update(zip(names, variables[at : at + len(names)], strict=True))
                at += len(names)
        if all(len({each.shape for each in state.values()}) == 1 for state in states):
            yield [next(iter(state.values())).shape for state in states], states


def _possible_passes(kind: str, config: ModelConfig) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield the passes that an optimizer with these options makes; without options, those that it may make."""
    known = _KINDS.get(kind)
    if known is None:
        return
    extra = {
        "amsgrad": ("velocity_hat",) if _ADAM in known.passes else (),
        "momentum": ("momentum",) if kind in ("sgd", "rmsprop") else (),
        "centered": ("average_gradient",) if kind == "rmsprop" else (),
    }
    if config.optimizer:
        asked = [name for name, option in _BEFORE.items() if config.options.get(option)]
        asked_after = [names for option, names in extra.items() if names and config.options.get(option)]
        yield (*((name,) for name in asked), *known.passes, *asked_after)
        return
    yield known.passes
    if kind != "rmsprop":  # which of its two it is could not be told
        yield from ((*known.passes, names) for names in extra.values() if names)


def build_optimizer(
    optimizer: KerasOptimizer, config: ModelConfig, slots: Sequence[Slots], shape_of: Callable[[str], Shape | None]
) -> Optimizer:
    """Return an optimizer with the moments under PyTorch's keys.

    Args:
        optimizer: what is known besides the moments.
        config: the model's configuration.
        slots: the state of each variable of the model.
        shape_of: returns the shape of a tensor of the model.
    """
    kind = _KINDS.get(_class_of(optimizer, config))
    options = _options(optimizer, config, kind)
    steps = options.get("gradient_accumulation_steps")
    step = optimizer.iteration
    if step is not None and isinstance(steps, int) and steps > 1:
        step //= steps
    moments = tuple(
        Moments(place, each.variable, step, {_key_of(name, kind): tensor for name, tensor in each.state.items()})
        for place, each in enumerate(slots)
    )
    lost = sum(each.tensor is None for each in moments)
    unmatched = (
        f"the file does not tell which variables {lost:,} of its {len(moments):,} states belong to" if lost else ""
    )
    wrong = next((each.tensor for each in moments if each.tensor and not _fits(each, shape_of(each.tensor))), "")
    mismatch = f"its state for {wrong} has another shape" if wrong else ""
    groups = (ParameterGroup(options, tuple(range(len(moments)))),) if "lr" in options else ()
    return Optimizer(optimizer.name, kind.name if kind else None, groups, moments, unmatched, mismatch)


def _fits(moments: Moments, shape: Shape | None) -> bool:
    return all(each.shape == shape for each in moments.state.values())


def name_slots(names: Mapping[tuple[str, ...], Tensor], variables: Sequence[str]) -> list[Slots]:
    """Join variables with names to those of the model.

    Keras 3 calls them ``adam/sequential_dense_kernel_momentum``, Keras 2 ``Adam/m/dense/kernel`` or
    ``Adam/dense/kernel/m``.

    Args:
        names: the paths of the optimizer's variables, without ``:0``, to these.
        variables: the names of the model's.
    """
    joined = Counter(each.replace("/", "_") for each in variables)
    by_joined = {name: each for each in variables if joined[name := each.replace("/", "_")] == 1}
    known = set(variables)
    states: dict[str, dict[str, Tensor]] = {}
    for path, tensor in names.items():
        whole, slot = _read_name(path, by_joined, known)
        if slot:
            states.setdefault(whole, {})[slot] = tensor
    return [Slots(name if name in known else None, state) for name, state in states.items()]


def _read_name(path: tuple[str, ...], by_joined: Mapping[str, str], known: set[str]) -> tuple[str, str]:
    """Return the model's variable and the slot that a name says; two empty texts where it says none."""
    for slot in sorted(SLOTS, key=len, reverse=True):
        if path[-1].endswith(f"_{slot}"):
            before = path[-1].removesuffix(f"_{slot}")
            return by_joined.get(before, before), slot
        if slot in path:
            at = path.index(slot)
            rest = path[:at] + path[at + 1 :]
            found = next((name for skipped in range(len(rest)) if (name := "/".join(rest[skipped:])) in known), "")
            return found or "/".join(rest), slot
    return "", ""


def _class_of(optimizer: KerasOptimizer, config: ModelConfig) -> str:
    """Return the key in ``_KINDS``. Keras names an optimizer ``adam_w``, and the next of its class ``adam_w_1``."""
    return (config.optimizer or optimizer.name.rstrip("_0123456789")).lower().replace("_", "")


def _key_of(name: str, kind: _Kind | None) -> str:
    if kind is None:
        return name
    if kind.name in _STEPS_IN_MOMENTUM:
        return {"momentum": "momentum_buffer", "velocity": "square_avg", "rms": "square_avg"}.get(name, SLOTS[name])
    return SLOTS[name]


def _options(optimizer: KerasOptimizer, config: ModelConfig, kind: _Kind | None) -> dict[str, Any]:
    """Return the options by PyTorch's names. Keras never adds weight decay to the gradients."""
    numbers = {name: value for name, value in config.options.items() if isinstance(value, (int, float))}
    stored = {**(kind.defaults if kind else {}), **numbers}
    found: dict[str, Any] = {
        name: stored[name]
        for name in (
            *("momentum", "nesterov", "amsgrad", "centered", "rho", "initial_accumulator_value"),
            "gradient_accumulation_steps",
        )
        if name in stored
    }
    rate = optimizer.learning_rate if optimizer.learning_rate is not None else stored.get("learning_rate")
    if rate is not None:
        found["lr"] = float(rate)
    if "beta_1" in stored and "beta_2" in stored:
        found["betas"] = (stored["beta_1"], stored["beta_2"])
    if "epsilon" in stored:
        found["eps"] = stored["epsilon"]
    if kind is not None and kind.name == "RMSprop" and "rho" in found:
        found["alpha"] = found.pop("rho")
    if stored.get("weight_decay"):
        found |= {"weight_decay": stored["weight_decay"], "decoupled_weight_decay": True}
    return found
