"""``ckdoc fix`` on files: what is repaired obeys its rule, what is not stays, byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.faults import FAULTS, Patient, networks, twins
from checkpoint_doctor.acts.fix import FixOptions, FixResult, Outcome, fix
from checkpoint_doctor.acts.scan import open_checkpoint, scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.repair.changes import Purpose
from checkpoint_doctor.repair.entries import typical_square
from checkpoint_doctor.results.findings import Safety, Severity
from tests.live_models import batches, train
from tests.test_dormant_units import network, shift

pytestmark = pytest.mark.usefixtures("one_torch")

FIXTURES = Path(__file__).parents[1] / "fixtures"
CATALOGUE = discover()
EVERYTHING = {"recycle": True, "unsafe": True}


def ill_fixtures() -> Iterator[str]:
    manifest = tomllib.loads((FIXTURES / "manifest.toml").read_text())
    for fixture in manifest["fixture"]:
        if any(each["severity"] != "note" for each in fixture.get("expects", [])):
            yield fixture["file"]


def healthy_fixtures() -> Iterator[str]:
    manifest = tomllib.loads((FIXTURES / "manifest.toml").read_text())
    return (each["file"] for each in manifest["fixture"] if not each.get("expects"))


def repair(path: Path, **options: Any) -> FixResult:
    (result,) = fix([path], FixOptions(**options), catalogue=CATALOGUE)
    return result


def fixed(path: Path, **options: Any) -> Path:
    result = repair(path, **options)
    assert result.outcome in (Outcome.FIXED, Outcome.RELIEVED), result.error
    assert result.output is not None
    return Path(result.output)


def codes(path: Path, least: Severity = Severity.WARNING) -> set[str]:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return {finding.code for finding in examination.counted if finding.severity >= least}


def treatable(path: Path) -> set[str]:
    (examination,) = scan([path], catalogue=CATALOGUE).checkpoints
    return {
        finding.code
        for finding in examination.counted
        if finding.severity >= Severity.WARNING and any(each.safety is Safety.SAFE for each in finding.repairs)
    }


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.array for tensor in open_checkpoint(path, CATALOGUE).tensors}


@pytest.mark.parametrize("name", list(ill_fixtures()))
def test_an_ill_fixture_becomes_well_and_nothing_else_changes(name: str, tmp_path: Path) -> None:
    ill = tmp_path / name
    shutil.copy(FIXTURES / name, ill)
    before = hashlib.sha256(ill.read_bytes()).hexdigest()
    assert treatable(ill)
    well = fixed(ill)
    assert well.name == f"{ill.stem}_FIXED{ill.suffix}"
    assert not treatable(well)
    assert hashlib.sha256(ill.read_bytes()).hexdigest() == before
    record = json.loads((tmp_path / f"{well.name}.ckdoc.json").read_text())
    touched = {each["tensor"] for each in record["tensors"]}
    old, new = arrays(ill), arrays(well)
    assert old.keys() == new.keys()
    for tensor in old:
        is_same = np.array_equal(old[tensor], new[tensor])
        assert is_same == (tensor not in touched), tensor
    assert record["input"]["sha256"] == before
    assert record["output"]["sha256"] == hashlib.sha256(well.read_bytes()).hexdigest()
    assert well.stat().st_size == ill.stat().st_size
    if ill.suffix == ".zip":
        assert zipfile.ZipFile(well).testzip() is None


@pytest.mark.parametrize("name", list(healthy_fixtures()))
def test_a_healthy_fixture_gets_no_file(name: str, tmp_path: Path) -> None:
    healthy = tmp_path / name
    shutil.copy(FIXTURES / name, healthy)
    result = repair(healthy, **EVERYTHING)
    assert result.outcome is Outcome.NOTHING
    assert list(tmp_path.iterdir()) == [healthy]


def test_lstm_and_gru_biases_obey_their_rules(tmp_path: Path) -> None:
    well = fixed(FIXTURES / "case_2_overwritten.zip", output=str(tmp_path))
    state = arrays(well)
    first, second = (state[f"actor.management_memory.bias_{side}_l0"] for side in ("ih", "hh"))
    hidden = first.size // 4
    forget = slice(hidden, 2 * hidden)
    assert (first[forget] == 1.0).all()
    assert (second[forget] == 0.0).all()
    others = np.r_[0:hidden, 2 * hidden : 4 * hidden]
    for bias in (first[others], second[others], state["actor.gru.bias_ih_l0"], state["critic.qf0.0.bias"]):
        assert (np.abs(bias) <= 0.01).all()
        assert (bias != 0).all()
    for layer in ("0", "3", "6"):
        assert np.array_equal(state[f"critic.qf0.{layer}.bias"], state[f"critic_target.qf0.{layer}.bias"])


def test_norm_gains_become_exactly_one_where_they_were_zero(tmp_path: Path) -> None:
    ill = FIXTURES / "case_1_head_v6.zip"
    old = arrays(ill)["entry_quality_head.1.weight"]
    new = arrays(fixed(ill, output=str(tmp_path)))["entry_quality_head.1.weight"]
    assert (new[old == 0] == 1.0).all()
    assert np.array_equal(new[old != 0], old[old != 0])


def test_a_zero_head_is_drawn_small_with_a_bias_of_zero(tmp_path: Path) -> None:
    state = arrays(fixed(FIXTURES / "case_5_zero_head.pt", output=str(tmp_path)))
    weight = state["discrete_head.2.weight"]
    assert np.abs(weight).min() > 0
    assert np.abs(weight).max() <= 0.003
    assert not state["discrete_head.2.bias"].any()


def test_moments_of_repaired_entries_start_anew(tmp_path: Path) -> None:
    ill = FIXTURES / "case_1_head_v6.zip"
    name = "entry_quality_head.1.weight"
    before = open_checkpoint(ill, CATALOGUE).moments[name]
    after = open_checkpoint(fixed(ill, output=str(tmp_path)), CATALOGUE).moments[name]
    zero = arrays(ill)[name] == 0
    first, second = after.state["exp_avg"].array, after.state["exp_avg_sq"].array
    old = before.state["exp_avg_sq"].array
    assert not first[zero].any()
    assert (second[zero] == np.float32(np.median(old[~zero & (old != 0)]))).all()
    assert np.array_equal(first[~zero], before.state["exp_avg"].array[~zero])
    assert np.array_equal(second[~zero], old[~zero])
    assert after.step == before.step


def test_two_runs_give_identical_files_and_another_seed_others(tmp_path: Path) -> None:
    results = []
    for run, seed in (("one", 0), ("two", 0), ("three", 7)):
        (tmp_path / run).mkdir()
        results.append(fixed(FIXTURES / "case_2_overwritten.zip", output=str(tmp_path / run), seed=seed))
    assert results[0].read_bytes() == results[1].read_bytes()
    assert results[0].read_bytes() != results[2].read_bytes()


def test_a_fixed_file_needs_nothing_more(tmp_path: Path) -> None:
    well = fixed(FIXTURES / "case_2_never_trained.zip", output=str(tmp_path))
    assert repair(well).outcome is Outcome.NOTHING
    assert repair(well, **EVERYTHING).outcome is Outcome.NOTHING


def test_a_dry_run_plans_the_same_and_writes_nothing(tmp_path: Path) -> None:
    ill = tmp_path / "model.zip"
    shutil.copy(FIXTURES / "case_1_head_v6.zip", ill)
    planned = repair(ill, dry_run=True)
    assert planned.outcome is Outcome.PLANNED
    assert list(tmp_path.iterdir()) == [ill]
    done = repair(ill)
    assert [each.tensor for each in planned.summary.changes] == [each.tensor for each in done.summary.changes]
    assert planned.record["tensors"] == done.record["tensors"]


# Fault twins

TREATED = {
    "all biases zero": {},
    "one bias zero": {},
    "LayerNorm gain 30.9 % zero": {},
    "LayerNorm gain 100 % zero": {},
    "output layer zero": {},
    "LSTM forget slice zero": {},
    "GRU biases zero": {},
    "one NaN": {"unsafe": True},
    "one Inf": {"unsafe": True},
    "constant tensor": {"unsafe": True},
}
"""Faults that can be repaired, and what must be ordered."""


@pytest.mark.parametrize(
    ("file", "outcome", "cause"),
    [
        ("case_1_head_v6.zip", Outcome.FIXED, "overwritten"),
        ("case_2_overwritten.zip", Outcome.FIXED, "overwritten"),
        ("case_2_never_trained.zip", Outcome.RELIEVED, "detached"),
        ("case_5_zero_head.pt", Outcome.RELIEVED, "detached"),
    ],
)
def test_a_repair_that_leaves_the_cause_is_no_cure(tmp_path: Path, file: str, outcome: Outcome, cause: str) -> None:
    result = repair(FIXTURES / file, output=str(tmp_path))
    assert (result.outcome, [each.cause for each in result.treated]) == (outcome, [cause])
    assert result.leaves_illness(Severity.ERROR) is (outcome is Outcome.RELIEVED)
    assert not result.leaves_illness(None)
    assert [each["cause"] for each in result.record["remaining_causes"]] == [each.cause for each in result.lasting]
    (again,) = scan([result.output or ""], catalogue=CATALOGUE).checkpoints
    assert [each.cause for each in again.diagnoses] == [each.cause for each in result.lasting]


def hide_dead_units(folder: Path) -> Path:
    """Write a network with most units of a layer dead, which a NaN in the moments hides."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, batches(8), 350, events={200: shift(model[2], list(range(20)), -50.0)})
    optimizer.state[model[2].weight]["exp_avg"][25, 3] = float("nan")
    path = folder / "ill.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


def test_what_comes_to_light_and_may_not_be_repaired_is_told(tmp_path: Path) -> None:
    result = repair(hide_dead_units(tmp_path), unsafe=True)
    assert result.outcome is Outcome.FIXED, result.error
    (left,) = result.summary.unfixed
    assert (left.code, left.subject, left.why) == ("NET001", "2", "it needs --recycle")
    assert [finding.code for finding in result.remaining if finding.severity >= Severity.WARNING] == ["NET001"]


def test_damage_beside_what_is_repaired_does_not_stand_in_the_way(tmp_path: Path) -> None:
    ill = tmp_path / "model.zip"
    with zipfile.ZipFile(FIXTURES / "case_1_head_v6.zip") as source, zipfile.ZipFile(ill, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-30] if name == "policy.optimizer.pth" else content)
    result = repair(ill)
    assert result.outcome is Outcome.FIXED, result.error
    assert {finding.code for finding in result.remaining if finding.severity is Severity.ERROR} == {"FIL001"}


def test_what_a_repair_brings_to_light_is_repaired_in_the_same_run(tmp_path: Path) -> None:
    ill = hide_dead_units(tmp_path)
    assert codes(ill) == {"VAL001"}
    planned = repair(ill, **EVERYTHING, dry_run=True)
    assert not [finding for finding in planned.remaining if finding.severity >= Severity.WARNING]
    result = repair(ill, **EVERYTHING)
    assert {change.tensor for change in result.summary.counted(Purpose.REPAIR)} == {"2.weight", "2.bias", "4.weight"}
    assert ["VAL001"] in [each["rules"] for each in result.record["optimizer"]]
    assert planned.record["tensors"] == result.record["tensors"]
    well = Path(result.output or "")
    assert codes(well) == set()
    assert repair(well, **EVERYTHING).outcome is Outcome.NOTHING


def test_the_median_of_moments_is_not_that_of_dead_units() -> None:
    faded, alive = np.full(90, 1e-30, np.float32), np.full(10, 4e-6, np.float32)
    repaired = np.arange(100) < 5
    second = np.concatenate([faded, alive])
    assert typical_square(second, repaired, least=1e-16) == pytest.approx(4e-6)
    assert typical_square(second, np.ones(100, bool), least=1e-16) == pytest.approx(4e-6)
    assert typical_square(second[::-1], repaired, least=1e-16) == pytest.approx(4e-6)
    assert typical_square(faded, repaired[:90], least=1e-16) == pytest.approx(1e-30)
    assert typical_square(np.zeros(3), np.zeros(3, bool), least=1e-16) == 0.0


@pytest.mark.parametrize("architecture", ["LayerNorm MLP", "LSTM", "GRU"])
def test_fault_twins_become_well(architecture: str, tmp_path: Path) -> None:
    wanted = {f"{architecture}, {how}" for how in ("trained, .pt", "fresh, .safetensors", "trained, with optimizer")}
    treated = 0
    for patient in (each for each in networks([architecture], steps=120) if each.name in wanted):
        for fault, _, path in ill_files(patient, tmp_path):
            expected = next(each.codes for each in FAULTS if each.name == fault)
            # Another illness of the same place, such as identical rows, may stay.
            well = fixed(path, **TREATED[fault], force=True)
            assert not codes(well) & expected, (patient.name, fault)
            assert repair(well, **EVERYTHING, output=str(tmp_path / "again")).outcome is Outcome.NOTHING
            treated += 1
    assert treated > 10


def ill_files(patient: Patient, folder: Path) -> Iterator[tuple[str, tuple[str, ...], Path]]:
    chosen: set[str] = set()
    for fault, place, state in twins(patient):
        if fault.name in TREATED and fault.name not in chosen:
            chosen.add(fault.name)
            path = folder / f"twin{patient.suffix}"
            patient.write(state, path)
            yield fault.name, place, path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_every_container_and_type(container: str, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(12, 40), torch.nn.LayerNorm(40), torch.nn.Linear(40, 5)).to(dtype)
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    state["0.bias"].zero_()
    state["1.weight"][::3] = 0
    path = tmp_path / f"model.{'safetensors' if container == 'safetensors' else 'pt'}"
    if container == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
    well = fixed(path)
    read = load_file(well) if container == "safetensors" else torch.load(well, weights_only=True)
    assert read["0.bias"].dtype == dtype
    assert read["0.bias"].abs().min() > 0
    assert read["0.bias"].double().abs().max() <= 0.01
    assert (read["1.weight"][::3] == 1).all()
    for name in state.keys() - {"0.bias", "1.weight"}:
        assert torch.equal(read[name], state[name])
    assert not treatable(well)


def test_views_and_tied_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat = torch.randn(64)
    flat[40:50] = 0
    tied = torch.randn(10, 6)
    wide = torch.randn(30, 10)
    state = {
        "0.weight": tied,
        "0.bias": flat[40:50],
        "again.0.weight": tied,
        "again.0.bias": flat[40:50],
        "2.weight": wide.t(),
        "flat": flat,
    }
    path = tmp_path / "model.pt"
    torch.save(state, path)
    read = torch.load(fixed(path), weights_only=True)
    assert torch.equal(read["0.bias"], read["again.0.bias"])
    assert read["0.bias"].abs().min() > 0
    assert torch.equal(read["flat"][40:50], read["0.bias"])
    assert torch.equal(read["flat"][:40], flat[:40])
    assert torch.equal(read["2.weight"], wide.t())


def test_a_sharded_model_gets_new_shards_only_where_something_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shards = {
        "m-00001-of-00002.safetensors": {"l1.weight": torch.randn(32, 16), "l1.bias": torch.zeros(32)},
        "m-00002-of-00002.safetensors": {"l2.weight": torch.randn(32, 32), "l2.bias": torch.randn(32)},
    }
    for name, state in shards.items():
        save_file(state, tmp_path / name)
    weight_map = {tensor: name for name, state in shards.items() for tensor in state}
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 7}, "weight_map": weight_map}, indent=2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    well = fixed(index)
    assert well.name == "m_FIXED.safetensors.index.json"
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in tmp_path.iterdir() if path not in before} == {
        "m_FIXED.safetensors.index.json",
        "m_FIXED.safetensors.index.json.ckdoc.json",
        "m-00001-of-00002_FIXED.safetensors",
    }
    renamed = json.loads(well.read_text())["weight_map"]
    assert renamed["l1.bias"] == "m-00001-of-00002_FIXED.safetensors"
    assert renamed["l2.bias"] == "m-00002-of-00002.safetensors"
    assert load_file(tmp_path / renamed["l1.bias"])["l1.bias"].abs().min() > 0
    assert not treatable(well)
