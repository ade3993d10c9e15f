"""The monitor in a loop of PyTorch: it sees what a scan sees, changes nothing, and finds what is done to the run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from checkpoint_doctor.acts.compare import compare
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.callbacks.live_checkpoint import LiveModel
from checkpoint_doctor.callbacks.live_tensors import as_array
from checkpoint_doctor.callbacks.requirements import require
from checkpoint_doctor.callbacks.torch import Monitor, TrainingIsIll
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.results.report import Examination, Verdict
from checkpoint_doctor.results.series_report import SeriesRecord
from tests.monitored_loops import build_network, told, train


def judged(examination: Examination | None) -> list[str]:
    """What a scan and a check must have in common."""
    assert examination is not None
    found = [f"{each.code} {each.severity} {each.subject} {each.message}" for each in examination.findings]
    return sorted([*found, *(f"{each.cause} {each.certainty} {each.message}" for each in examination.diagnoses)])


def ill(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Leave a bias without a gradient, and cut units off."""
    assert isinstance(model, nn.Sequential)
    model[3].bias.grad = None
    if step == 1:
        with torch.no_grad():
            model[3].bias.zero_()
            model[0].weight[:8] = 0.0


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
@pytest.mark.parametrize("sabotage", [None, ill])
def test_live_and_saved_tensors_are_judged_alike(tmp_path: Path, kind: type, sabotage: object) -> None:
    model, optimizer, monitor = train(120, sabotage=sabotage, kind=kind)  # type: ignore[arg-type]
    path = tmp_path / "saved.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    [saved] = scan([path]).checkpoints
    assert monitor
    live = monitor.check()
    assert live
    known_live_only = {each for each in judged(live) if each.startswith(("GRD", "detached proven"))}
    assert sorted(set(judged(live)) - known_live_only) == judged(saved)
    assert live.tensors == saved.tensors
    assert (sabotage is None) == (not judged(saved))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_run_is_the_same_to_the_last_bit(clip: float | None) -> None:
    watched, _, _ = train(60, clip=clip, check_every=10)
    alone, _, _ = train(60, clip=clip, monitored=False)
    assert all(torch.equal(*pair) for pair in zip(watched.parameters(), alone.parameters(), strict=True))


def test_a_healthy_run_is_not_told_of() -> None:
    _, _, monitor = train(300, check_every=50)
    assert told(monitor) == []
    assert monitor
    assert len(monitor.report.checkpoints) == 6
    assert monitor.values["doctor/grad_norm"] > 0  # type: ignore[operator]


def test_a_bias_set_to_zero_between_checks_is_found_at_once() -> None:
    def zero(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 250:
            model[3].bias.data.zero_()  # type: ignore[index, operator]

    _, _, monitor = train(400, sabotage=zero)
    assert told(monitor) == ["began overwritten", "healed overwritten"]
    assert monitor
    assert monitor.news[0].step == 249
    assert monitor.news[0].alert.subject == "3.bias"


def one_nan(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step == 150:
        model[3].weight.grad[2, 5] = float("nan")  # type: ignore[index, union-attr]


@pytest.mark.parametrize("clip", [None, 1.0])
def test_nan_in_a_gradient_is_stopped_before_the_weights(tmp_path: Path, clip: float | None) -> None:
    healthy = tmp_path / "healthy.pt"
    model, _, monitor = train(400, sabotage=one_nan, clip=clip, on_error="stop", save_healthy=healthy)
    assert monitor
    assert monitor.should_stop
    assert all(bool(torch.isfinite(each).all()) for each in model.parameters())
    [news] = monitor.news
    assert news.alert.title == "nonfinite-gradient"
    assert "1 of 1,024 entries in the gradient of 3.weight" in news.alert.message
    assert "the step was not made" in news.alert.message
    saved = torch.load(healthy)
    assert saved["step"] == 100
    resumed, again = build_network(), torch.optim.Adam(model.parameters())
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    [report] = scan([healthy]).checkpoints
    assert report.verdict is Verdict.HEALTHY


def test_raise_ends_the_loop_and_keeps_the_weights() -> None:
    with pytest.raises(TrainingIsIll, match="nonfinite-gradient"):
        train(400, sabotage=one_nan, on_error="raise")


def test_by_default_a_nan_is_told_and_the_step_is_made() -> None:
    model, _, monitor = train(201, sabotage=one_nan)
    assert not all(bool(torch.isfinite(each).all()) for each in model.parameters())
    assert told(monitor) == ["began nonfinite-gradient"]


def test_a_loss_of_nan_is_told_from_a_single_entry() -> None:
    _, _, monitor = train(200, loss_factor=lambda step: float("nan") if step == 120 else 1.0, on_error="stop")
    assert monitor
    assert "every entry of every gradient was NaN" in monitor.news[0].alert.message


def test_a_loss_times_zero_is_no_gradient() -> None:
    _, _, monitor = train(300, loss_factor=lambda step: float(step < 150))
    assert told(monitor) == ["began no-gradient"]
    assert monitor
    assert monitor.news[0].step == 200
    assert "since step 150" in monitor.news[0].alert.message


def test_a_head_frozen_in_the_middle_is_named() -> None:
    def freeze(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 150:
            model[5].requires_grad_(False)  # type: ignore[index, operator]

    _, _, monitor = train(400, sabotage=freeze)
    assert told(monitor) == ["began frozen"]
    assert monitor
    assert monitor.news[0].step == 200
    assert "5.weight, 5.bias" in monitor.news[0].alert.message


@pytest.mark.parametrize(("is_detached", "cause"), [(False, "frozen"), (True, "detached")])
def test_a_part_that_gets_zeros_from_the_middle_on_is_named(is_detached: bool, cause: str) -> None:
    network = build_network()

    def freeze(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 150 and not is_detached:
            model[0].requires_grad_(False)  # type: ignore[index, operator]
        if step == 150 and is_detached:
            model[0].register_forward_hook(lambda module, given, output: output.detach())  # type: ignore[index, operator]

    _, _, monitor = train(400, sabotage=freeze, network=network, set_to_none=False)
    assert told(monitor) == [f"began {cause}"]
    assert monitor
    assert monitor.news[0].step == 300
    assert "0.weight, 0.bias had gradients and have had zeros alone for 1" in monitor.news[0].alert.message


def test_a_part_that_gets_zeros_now_and_then_is_not_told() -> None:
    def pause(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step // 120 % 2:
            model[0].weight.grad.zero_()  # type: ignore[index, operator, union-attr]

    _, _, monitor = train(400, sabotage=pause, set_to_none=False, network=build_network())
    assert monitor
    assert monitor.news == []


def test_inputs_switched_on_are_named_with_their_columns() -> None:
    def inputs(step: int, batch: torch.Tensor) -> torch.Tensor:
        return batch * torch.tensor([1.0] * 6 + [float(step > 450)] * 2)

    _, _, monitor = train(600, inputs=inputs)
    assert told(monitor) == ["began inputs-switched-on"]
    assert monitor
    assert monitor.news[0].step == 500
    assert monitor.news[0].alert.evidence["inputs"] == [6, 7]


def test_units_killed_are_found_at_the_next_check() -> None:
    def kill(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 150:
            with torch.no_grad():
                model[2].bias[:20] = -50.0  # type: ignore[index, operator]

    layers = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)]
    _, _, monitor = train(300, sabotage=kill, network=nn.Sequential(*layers))
    assert told(monitor) == ["began dead-relu"]
    assert monitor
    assert monitor.news[0].step == 300


def test_a_learning_rate_times_a_thousand_is_named() -> None:
    def raise_rate(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 150:
            optimizer.param_groups[0]["lr"] *= 1000

    _, _, monitor = train(200, sabotage=raise_rate)
    assert told(monitor) == ["began learning-rate-too-high"]


def test_the_norm_is_the_one_before_clipping() -> None:
    norms: list[float] = []

    def record(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in grads]))))

    for clip in (None, 1e-3):
        _, _, monitor = train(100, sabotage=record, clip=clip)
        assert monitor
        assert monitor.values["doctor/grad_norm"] == pytest.approx(norms[-1], rel=1e-5)


def test_a_spike_is_a_note_and_an_ordinary_norm_is_none() -> None:
    _, _, monitor = train(200, loss_factor=lambda step: 1e4 if step == 170 else 1.0, verbose=2)
    assert monitor
    spikes = [each for each in monitor.news if each.alert.title.startswith("GRD003")]
    assert len(spikes) == 1
    assert spikes[0].alert.evidence["steps"] == [170]


def test_the_series_is_what_a_scan_prints(tmp_path: Path) -> None:
    series = tmp_path / "series.json"
    _, _, monitor = train(300, series=series)
    assert monitor
    monitor.close()
    document = json.loads(series.read_text())
    assert [each["path"] for each in document["checkpoints"]] == ["step 100", "step 200", "step 300"]
    assert [each["step"] for each in document["checkpoints"]] == [100, 200, 300]
    keys = json.loads(_scan_as_json(tmp_path))
    assert document.keys() == keys.keys()
    assert document["checkpoints"][0].keys() == keys["checkpoints"][0].keys()


def _scan_as_json(folder: Path) -> str:
    from checkpoint_doctor.results.json import to_json, write_json

    torch.save(build_network().state_dict(), folder / "net.pt")
    return write_json(to_json(scan([folder / "net.pt"])))


def test_a_repair_heals_what_is_proven_and_once_only() -> None:
    def zero(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step in (200, 300):
            model[3].bias.data.zero_()  # type: ignore[index, operator]

    stream = io.StringIO()
    _, _, monitor = train(400, sabotage=zero, repair=True, stream=stream)
    lines = [line for line in stream.getvalue().splitlines() if "repaired 3.bias" in line]
    assert len(lines) == 1
    assert "step 199" in lines[0]
    assert told(monitor) == ["began overwritten", "healed overwritten", "began overwritten", "healed overwritten"]


def test_a_loop_without_an_optimizer_counts_its_own_steps() -> None:
    model = build_network()
    monitor = Monitor(model, check_every=2, stream=io.StringIO())
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    monitor.step()
    assert monitor.examination is None
    monitor.step()
    assert monitor.examination
    assert monitor.examination.verdict is Verdict.ILL


def test_a_wrong_argument_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="on_error"):
        Monitor(build_network(), on_error="explode")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is no optimizer"):
        Monitor(build_network(), object())  # type: ignore[arg-type]


def test_live_arrays_are_views_that_cannot_be_written_to() -> None:
    model = build_network()
    tensor = LiveModel(model).describe("now").by_name["0.weight"]
    block = next(tensor.values.blocks(1 << 18))
    assert np.shares_memory(block, model[0].weight.detach().numpy())
    with pytest.raises(ValueError, match="read-only"):
        block[0] = 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_values_of_every_type_are_read(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.5, -2.0], [0.0, 1.0]]).to(dtype)
    assert as_array(tensor).astype(np.complex128).tolist() == [[0.5, -2.0], [0.0, 1.0]]
    assert as_array(tensor.t()).astype(np.complex128).tolist() == [[0.5, 0.0], [-2.0, 1.0]]


def test_meta_shared_and_sparse_parameters() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10)
            self.head.weight = self.embedding.weight
            self.later = nn.Linear(3, 3, device="meta")

    checkpoint = LiveModel(Odd()).describe("now")
    assert checkpoint.aliases == {"head.weight": "embedding.weight"}
    assert [each.what for each in checkpoint.skipped] == ["later.weight", "later.bias"]


def test_the_figures_of_a_layer_tell_of_its_gradient() -> None:
    def inputs(step: int, batch: torch.Tensor) -> torch.Tensor:
        return batch * torch.tensor([1.0] * 6 + [0.0] * 2)

    _, _, monitor = train(40, check_every=40, per_layer=True, inputs=inputs, clip=0.01)
    assert monitor
    values = {name: each for name, each in monitor.values.items() if isinstance(each, float)}
    assert values["doctor/silent_inputs/0"] == 2.0
    assert values["doctor/zero_gradients/0"] >= 0.2
    assert values["doctor/zero_gradients/5"] == 0.0
    norms = [each for name, each in values.items() if name.startswith("doctor/grad_norm/")]
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(values["doctor/grad_norm"], rel=1e-3)


def test_a_missing_library_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="needs no-such-package, which is not installed: pip install no-such-package"):
        require("no_such_module", "no-such-package", "the callback")


def test_closing_leaves_pytorch_as_it_was() -> None:
    from torch.nn.utils import clip_grad

    before = clip_grad.__dict__.copy()
    _, optimizer, monitor = train(10, clip=1.0)
    assert monitor
    monitor.close()
    assert clip_grad.__dict__ == before
    assert not optimizer._optimizer_step_pre_hooks


def test_the_series_shows_what_the_saved_checkpoints_show(tmp_path: Path) -> None:
    def silence(step: int, batch: torch.Tensor) -> torch.Tensor:
        """Inputs that carry nothing any more from the middle of the run on."""
        return batch if step <= 600 else torch.cat([batch[:, :4], torch.zeros_like(batch[:, 4:])], 1)

    def save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step % 200 == 1 and step > 1:  # before the step, so the state that the check before it saw
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step - 1}
            torch.save(state, tmp_path / f"step_{step - 1:04}.pt")

    series = tmp_path / "run.json"
    layers = [nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2)]
    _, _, monitor = train(
        1201, sabotage=save, inputs=silence, network=nn.Sequential(*layers), check_every=200, series=series
    )
    assert monitor
    monitor.finish()
    [live] = compare([series]).series
    [saved] = compare(sorted(tmp_path.glob("step_*.pt"))).series

    def trends(record: SeriesRecord) -> list[tuple[str, str | None, object, object]]:
        found = [each for each in record.findings if each.code == "TRD005"]
        return [(each.code, each.tensor, each.evidence["onset_step"], each.evidence["columns"]) for each in found]

    assert trends(saved)
    assert trends(live) == trends(saved)
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(series.read_text()), schema)
