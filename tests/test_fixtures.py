"""The five cases are found with their figures, and the healthy checkpoints have no findings."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from stable_baselines3 import PPO, SAC

from benchmarks.faults import alarms, names
from checkpoint_doctor.acts.compare import compare
from checkpoint_doctor.acts.scan import open_checkpoint, scan
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.report import Examination
from fixtures import generate, networks
from tests.built_files import build_once

SOURCES = tuple((ROOT / "fixtures").glob("*.py"))
MANIFEST = tomllib.loads((ROOT / "fixtures" / "manifest.toml").read_text(encoding="utf-8"))
ENTRIES = [pytest.param(entry, id=entry["file"]) for entry in MANIFEST["fixture"]]
BIAS_CODES = {"ZER003", "ZER004", "RNN001", "RNN002"}


def examine(path: Path) -> Examination:
    (examination,) = scan([path]).checkpoints
    assert examination.error is None, examination.error
    return examination


def read_state(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    saved = torch.load(path, weights_only=True)
    return saved.get("model_state_dict") or saved["model"]


def zero_biases(state: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in state.items() if "bias" in name and not tensor.any() and tensor.numel()]


def causes(findings: list[Finding]) -> set[str]:
    return {finding.evidence["cause"] for finding in findings if "cause" in finding.evidence} - {"unknown"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_fixture_shows_what_the_manifest_says(entry: dict[str, Any], fixtures: Path) -> None:
    path = fixtures / entry["file"]
    examination = examine(path)
    assert examination.format == entry["format"]
    assert examination.algorithm == entry.get("algorithm")
    assert sum(record.zeros for record in examination.tensors) == entry["zeros"]
    if "parameters" in entry:
        assert sum(record.size for record in examination.tensors if "/" not in record.name) == entry["parameters"]
    expected_codes = set()
    for expectation in entry.get("expects", []):
        expected_codes.update(expectation["codes"])
        least = Severity[expectation["severity"].upper()]
        found = [each for each in examination.counted if each.code in expectation["codes"] and each.severity >= least]
        tensors = expectation.get("tensors", [])
        if "zero_biases" in expectation:
            tensors = zero_biases(read_state(path))
            assert len(tensors) == expectation["zero_biases"]
        for tensor in tensors:
            assert any(names(finding, tensor) for finding in found), f"nothing names {tensor}"
        assert any(expectation.get("says", "") in finding.message for finding in found)
        if "cause" in expectation:
            assert causes(found) == {expectation["cause"]}
    assert [each.cause for each in examination.diagnoses] == ([entry["diagnosis"]] if "diagnosis" in entry else [])
    assert {each.code for each in examination.unexplained if each.severity > Severity.NOTE} <= {
        "HYP001"
    } & expected_codes
    unexpected = [each for each in alarms(examination) if each.severity is Severity.ERROR or not expected_codes]
    assert [(each.code, each.message) for each in unexpected if each.code not in expected_codes] == []


def test_every_committed_checkpoint_is_in_the_manifest(fixtures: Path) -> None:
    listed = {entry["file"] for table in ("fixture", "log") for entry in MANIFEST[table]}
    assert {path.name for path in fixtures.iterdir() if path.suffix in {".zip", ".pt", ".csv"}} == listed


def test_generating_again_gives_the_same_tensors(fixtures: Path) -> None:
    generated = build_once("fixtures", SOURCES, generate.build_all)
    for path in sorted(each for each in generated.rglob("*") if each.is_file()):
        committed = fixtures / path.relative_to(generated)
        if path.suffix == ".csv":
            assert path.read_text() == committed.read_text()
            continue
        again, before = read_state(path), read_state(committed)
        assert list(again) == list(before)
        for name, tensor in before.items():
            # Another processor may round the toy training differently; zeros are where they were.
            assert torch.allclose(again[name], tensor, rtol=1e-3, atol=1e-4), f"{path.name}: {name}"
            assert torch.equal(again[name] == 0, tensor == 0), f"{path.name}: {name}"


CAUSES: tuple[generate.Cause, ...] = ("never trained", "overwritten", "unknown")


@pytest.fixture(scope="module")
def full_size() -> Path:
    """A folder with case 2 at its own size, for each of its causes and without one."""

    def build(folder: Path) -> None:
        for cause in (*CAUSES, None):
            generate.build_case_2(folder / f"{cause}.zip", cause=cause)

    return build_once("case_2", SOURCES, build)


@pytest.mark.parametrize("cause", CAUSES)
def test_case_2_at_its_own_size(cause: generate.Cause, full_size: Path) -> None:
    path = full_size / f"{cause}.zip"
    state = read_state(path)
    biases = zero_biases(state)
    assert (len(state), sum(tensor.numel() for tensor in state.values()), len(biases)) == (100, 2_303_200, 28)
    examination = examine(path)
    assert sum(record.zeros for record in examination.tensors) == 9_408
    found = [finding for finding in alarms(examination) if finding.code in BIAS_CODES]
    for bias in biases:
        assert any(names(finding, bias) for finding in found), f"nothing names {bias}"
    assert causes(found) == {cause} - {"unknown"}
    (pattern,) = (finding for finding in found if finding.code == "ZER004" and finding.evidence["biases"] == 28)
    assert pattern.evidence["zeros"] == 9_408
    assert pattern.evidence["zero_fraction"] == pytest.approx(0.004, abs=1e-4)


def test_case_2_is_quiet_without_the_zeros(full_size: Path) -> None:
    examination = examine(full_size / "None.zip")
    assert [(each.code, each.tensor) for each in alarms(examination)] == []


def test_agents_load_in_the_library_they_are_from(fixtures: Path) -> None:
    for name, algorithm in {"case_1_head_v6": PPO, "case_2_never_trained": SAC, "case_2_overwritten": SAC}.items():
        model = algorithm.load(fixtures / f"{name}.zip", device="cpu")
        observation = model.observation_space.sample()
        action, _ = model.predict(observation, deterministic=True)
        assert model.action_space.contains(action)


def test_case_1_brings_its_settings(fixtures: Path) -> None:
    settings = open_checkpoint(fixtures / "case_1_head_v6.zip").hyperparameters
    (entry,) = (entry for entry in MANIFEST["fixture"] if entry["file"] == "case_1_head_v6.zip")
    assert {name: settings.get(name) for name in entry["hyperparameters"]} == entry["hyperparameters"]
    assert settings["plateau_scheduler"] == {"patience": 25_000, "factor": 0.85, "min_lr": 1e-7}


def test_case_3_series_has_the_shares_of_the_story(tmp_path: Path) -> None:
    shares = []
    for path in generate.build_case_3_series(tmp_path):
        checkpoint = open_checkpoint(path)
        first = checkpoint.moments["temporal_projection.weight"].first
        assert first is not None
        assert first.size == 19_635
        shares.append(round(100 * float((abs(first.array) < 1e-37).mean()), 1))
    assert shares == [4.4, 27.3, 65.4]


def test_case_3_as_a_run_shows_where_it_began(tmp_path: Path) -> None:
    generate.build_case_3_run(tmp_path)
    [record] = compare(tmp_path).series
    [finding] = [each for each in record.counted if each.code == "TRD005"]
    assert (finding.severity, finding.tensor) == (Severity.ERROR, "temporal_projection.weight")
    assert finding.evidence["onset_step"] == 6_000
    assert [round(100 * share, 1) for share in finding.evidence["fractions"]] == [4.4, 4.4, 27.3, 65.4]
    width, late = networks.PROJECTION[1], networks.POSITION_INPUTS
    assert finding.evidence["columns"] == list(range(width - late, width))


def test_case_3_as_a_healthy_run_is_calm(fixtures: Path) -> None:
    report = compare(fixtures / "case_3_run_healthy")
    assert [point.step for point in report.series[0].points] == [2_000, 4_000, 6_000, 8_000]
    assert not report.findings


def test_a_run_of_ppo_is_calm_and_its_biases_heal(fixtures: Path) -> None:
    report = compare(fixtures / "ppo_run")
    [record] = report.series
    assert [point.step for point in record.points] == [256, 512, 768, 1024, 1280]
    assert record.ordered_by == "step"
    assert [finding for finding in report.findings if finding.severity > Severity.NOTE] == []
    assert not report.failed


def test_case_3_names_the_input_columns(tmp_path: Path) -> None:
    path = tmp_path / "dead_inputs.pt"
    torch.save(networks.temporal_projection(dead_inputs=True), path)
    (finding,) = (finding for finding in examine(path).counted if finding.code == "NET006")
    columns = list(range(networks.PROJECTION[1] - networks.POSITION_INPUTS, networks.PROJECTION[1]))
    assert columns in finding.evidence.values()


def test_case_4_brings_its_settings(fixtures: Path) -> None:
    checkpoint = open_checkpoint(fixtures / "case_4_frozen_backbone.pt")
    (optimizer,) = checkpoint.optimizers
    for group in optimizer.groups:
        assert group.options["lr"] == 3e-4
        assert tuple(group.options["betas"]) == (0.9, 0.95)
        assert group.options["weight_decay"] == 0.1
    held = sum(checkpoint.by_name[name].size for name in checkpoint.moments)
    frozen = 1 - held / sum(tensor.size for tensor in checkpoint.tensors)
    assert frozen == pytest.approx(86 / 168, abs=0.005)
