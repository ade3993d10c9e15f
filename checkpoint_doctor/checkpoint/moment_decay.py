"""How fast an optimizer's moments decay, and how far they have settled."""

from __future__ import annotations

from math import exp, inf, log

from msgspec import Struct

from checkpoint_doctor.checkpoint.optimizers import Moments, Optimizer


class DecayRates(Struct, frozen=True):
    """How fast moments decay in updates without gradient, in e-folds per update."""

    first: float | None
    """Of the first moment or momentum buffer; ``None`` without one, infinite where it holds the last gradient only."""
    second: float | None
    """Of the second moment's square root; ``None`` without one, 0.0 where it never decays (Adagrad)."""

    @property
    def ratio(self) -> float | None:
        """Of |m|/√v; ``None`` unless both moments exist."""
        if self.first is None or self.second is None or self.first == inf:
            return None
        return self.first - self.second


def decay_rates_of(moments: Moments, optimizer: Optimizer) -> DecayRates | None:
    """Return how fast a parameter's moments decay, from the settings of its group; ``None`` where these are unknown.

    In each update, Adam and its variants multiply the moments by β1 and β2, RMSprop the square by α, SGD the buffer by
    its momentum, Lion the buffer by its second β. Adagrad's sums never decay. RMSprop's momentum buffer is not used: it
    holds steps, not gradients.
    """
    group = optimizer.group_of(moments.index)
    options = group.options if group else {}
    if "sum" in moments.state:
        return DecayRates(None, 0.0)
    if "square_avg" in moments.state:
        factor = _decay_factor(options.get("alpha"))
        return None if factor is None else DecayRates(None, _rate(factor) / 2)
    if "momentum_buffer" in moments.state:
        factor = _decay_factor(options.get("momentum"))
        return None if factor is None else DecayRates(_rate(factor), None)
    betas = options.get("betas")
    if not isinstance(betas, (tuple, list)) or len(betas) < 2:
        return None
    first, second = _decay_factor(betas[0]), _decay_factor(betas[1])
    if first is None or second is None:
        return None
    if moments.second is None:
        return DecayRates(_rate(second), None)
    return DecayRates(_rate(first), _rate(second) if "exp_inf" in moments.state else _rate(second) / 2)


def second_moment_correction(moments: Moments, optimizer: Optimizer) -> float | None:
    """Return the second moment's bias correction, 1 - β2**step.

    ``None`` where the second moment is not a running mean of squares, or the updates were not counted.
    """
    if not moments.step or not ({"exp_avg_sq", "square_avg"} & moments.state.keys()):
        return None
    rates = decay_rates_of(moments, optimizer)
    if rates is None or not rates.second:
        return None
    remaining = exp(min(0.0, -2.0 * rates.second * moments.step))
    group = optimizer.group_of(moments.index)
    # torch.optim.RMSprop starts at 0.0 and has ``foreach`` since 1.12. RMSpropTFLike has not and starts at 1.0: the
    # correction is unknown until that no longer matters.
    may_start_at_one = "square_avg" in moments.state and "foreach" not in (group.options if group else {})
    return None if may_start_at_one and remaining > 1e-9 else 1.0 - remaining


def _decay_factor(value: object) -> float | None:
    if isinstance(value, (int, float)) and 0.0 <= float(value) < 1.0:
        return float(value)
    return None


def _rate(factor: float) -> float:
    return -log(factor) if factor > 0.0 else inf
