"""Low-rank adapters that change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_doctor.builtin.analyzers._evidence.training import was_trained
from checkpoint_doctor.builtin.analyzers._zeros.severity import is_zero
from checkpoint_doctor.checkpoint import Checkpoint, Layer
from checkpoint_doctor.layers import DENSE, Kind
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.text import shown


@rule("NET008", "no-op-adapter", Severity.WARNING, worst=Severity.ERROR, on=Checkpoint, part=("adapter",))
def no_op_adapter(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The second factor of every layer of an adapter is exactly zero: it changes nothing.

    Why it matters:
        A low-rank adapter adds the product of its two factors to a layer. With a second factor of zero, the model
        behaves as without the adapter, whatever was trained, and nothing warns about it when it is loaded.

    When it is normal:
        Before the first update: the second factor starts at zero. A second adapter whose training has not begun is not
        reported beside a trained one. In a file that holds the adapted model as well, and no optimizer, a fresh adapter
        may be there for the next training: a note.

    What to do:
        Check that the optimizer holds the adapter's parameters and that they require gradients, that the adapter was
        active during training, and that the file was saved from the trained model and not from a fresh wrapper around
        it. Frameworks that shard parameters save zeros or nothing where the parameters were not gathered.

    References:
        Hu et al. 2106.09685 (B starts at zero). peft issue 1402 and unsloth issue 3089 are about adapters that were
        saved with zeros.
    """
    if checkpoint.is_untrained:
        return
    adapters: dict[str, list[Layer]] = {}
    for layer in checkpoint.distinct_layers:
        if layer.kind is Kind.LORA and "lora_B" in layer.tensors and layer.tensors["lora_B"].size:
            adapters.setdefault(_adapter_name(layer), []).append(layer)
    no_ops = {name for name, layers in adapters.items() if all(is_zero(layer.tensors["lora_B"]) for layer in layers)}
    for name in sorted(no_ops):
        steps = _count_steps(adapters[name], checkpoint)
        if steps is None and checkpoint.optimizers and not any(each.has_state for each in checkpoint.optimizers):
            continue
        has_turn = any(_was_any_trained(layer, checkpoint) is not False for layer in adapters[name])
        if len(no_ops) < len(adapters) and not has_turn:
            continue  # its training has not begun
        yield _report(name, adapters[name], steps, is_alone=not _holds_adapted(adapters[name], checkpoint))


def _adapter_name(layer: Layer) -> str:
    """Return the name of the adapter that a layer's factors belong to; empty where it has none."""
    before, _, name = layer.name.rpartition(".lora.")
    return name if before else ""


def _count_steps(layers: list[Layer], checkpoint: Checkpoint) -> int | None:
    """Return how many updates an optimizer counted for any tensor of an adapter; ``None`` where it counted none."""
    names = [tensor.name for layer in layers for tensor in layer.tensors.values()]
    return max((moments.step or 0 for name in names if (moments := checkpoint.moments.get(name))), default=0) or None


def _was_any_trained(layer: Layer, checkpoint: Checkpoint) -> bool | None:
    answers = [was_trained(tensor, checkpoint) for tensor in layer.tensors.values()]
    return True if True in answers else None if None in answers else False


def _holds_adapted(layers: list[Layer], checkpoint: Checkpoint) -> bool:
    """True where the file also holds the layer that a factor is added to."""
    modules = {layer.name.partition(".lora")[0] for layer in layers}
    return any(
        layer.kind in DENSE and (layer.name in modules or layer.name.rpartition(".")[0] in modules)
        for layer in checkpoint.layers
    )


def _report(name: str, layers: list[Layer], steps: int | None, *, is_alone: bool) -> Finding:
    which = f"the adapter {shown(name)}" if name else "the adapter"
    factors = f"all {len(layers):,} second factors (lora_B) are" if len(layers) > 1 else "its second factor (lora_B) is"
    when = f"after {steps:,} updates" if steps else "and the file does not tell whether it was trained"
    return no_op_adapter.finding(
        f"{which} changes nothing: {factors} exactly zero, {when}",
        layers[0] if len(layers) == 1 else None,
        severity=Severity.ERROR if steps else Severity.WARNING if is_alone else Severity.NOTE,
        evidence={
            "adapter": name,
            "tensors": [layer.tensors["lora_B"].name for layer in layers],
            "layers": [layer.name for layer in layers],
            "updates": steps,
        },
        advice="Check that the optimizer holds the adapter's parameters, and that the trained model was saved.",
    )
