"""What ckdoc promises loudly, asked at its public door: break the promise in the code, and a test here turns red."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks import mutants, promises
from checkpoint_doctor import FixOptions, fix
from checkpoint_doctor.acts.fix import FixResult, Outcome
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.analyzers.values import zeros
from checkpoint_doctor.checkpoint import Checkpoint, Flaw
from checkpoint_doctor.config.settings import Config, Ignore, Section
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.self_checks import report_crash
from checkpoint_doctor.repair import safe_copy
from checkpoint_doctor.repair.changes import Plan, Purpose
from checkpoint_doctor.repair.planning import plan_repairs
from checkpoint_doctor.repair.verification import compare_tensors
from checkpoint_doctor.results.baseline import Baseline, Entry
from checkpoint_doctor.results.findings import Finding, Safety, Severity
from checkpoint_doctor.results.identity import extent_of, identify
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict
from checkpoint_doctor.sources.search import Criteria, find_candidates
from checkpoint_doctor.testing import build_checkpoint, findings_of
from tests.gathering import apply_baseline, find_stale

CATALOGUE = discover()
CRITERIA = Criteria(CATALOGUE.suffixes)
Weights = dict[str, NDArray]


def sick_network(seed: int = 0) -> Weights:
    """A network with a bias that is exactly zero."""
    random = np.random.default_rng(seed)
    weights = {
        f"net.{number}.{role}": random.normal(0, 0.3, size=shape).astype(np.float32)
        for number, outputs, inputs in ((0, 16, 6), (2, 16, 16), (4, 4, 16))
        for role, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }
    weights["net.0.bias"][:] = 0
    return weights


def repair(path: Path, config: Config | None = None, **options: Any) -> FixResult:
    (result,) = fix([path], FixOptions(**options), catalogue=CATALOGUE, config=config)
    return result


# A repaired copy holds the planned values, and beside them the same tensors as the original


def trained(weights: Weights) -> Checkpoint:
    moments = {
        name: {"step": 500, "exp_avg": np.full(array.shape, 1e-3), "exp_avg_sq": np.full(array.shape, 1e-4)}
        for name, array in weights.items()
    }
    return build_checkpoint(weights, optimizer=moments, updates=500)


def plan_for(checkpoint: Checkpoint) -> Plan:
    return plan_repairs(checkpoint, findings_of(zeros.zero_bias, checkpoint))


def copy_as_planned(weights: Weights, plan: Plan) -> Checkpoint:
    new = {change.tensor.name: change.new for change in plan.changes}
    moments = {
        name: {
            "step": 500,
            "exp_avg": new.get(f"optimizer/{name}/exp_avg", np.full(array.shape, 1e-3)),
            "exp_avg_sq": new.get(f"optimizer/{name}/exp_avg_sq", np.full(array.shape, 1e-4)),
        }
        for name, array in weights.items()
    }
    copied = {name: new.get(name, array) for name, array in weights.items()}
    return build_checkpoint(copied, optimizer=moments, updates=500, path="copy")


def test_a_copy_with_the_planned_values_passes():
    before = trained(sick_network())
    plan = plan_for(before)
    assert {change.purpose for change in plan.changes} == {Purpose.REPAIR, Purpose.MOMENT}
    compare_tensors(before, copy_as_planned(sick_network(), plan), plan, {})


@pytest.mark.parametrize("kind", ["repair", "moment"])
def test_a_copy_without_one_of_the_planned_values_does_not(kind: str):
    before = trained(sick_network())
    plan = plan_for(before)
    changes = [each for each in plan.changes if each.purpose is Purpose[kind.upper()]]
    wrong = changes[0].new.copy()
    wrong[-1] += 1e-3
    spoiled = [replace(each, new=wrong) if each is changes[0] else each for each in plan.changes]
    after = copy_as_planned(sick_network(), Plan(tuple(spoiled)))
    with pytest.raises(RepairFailed, match=f"{changes[0].tensor.name} does not have the planned values"):
        compare_tensors(before, after, plan, {})


@pytest.mark.parametrize("fault", ["missing", "more", "renamed", "moved", "shape", "type"])
def test_a_copy_with_other_tensors_does_not(fault: str):
    before = build_checkpoint(sick_network())
    plan = plan_for(before)
    copied = {name: array for name, array in sick_network().items() if fault not in ("missing", "moved")}
    if fault in ("missing", "moved"):
        copied = dict(list(sick_network().items())[1:])
    if fault == "more":
        copied["extra"] = np.ones(2, np.float32)
    elif fault == "moved":
        copied["net.0.weight"] = sick_network()["net.0.weight"]
    elif fault == "renamed":
        copied = {name.replace("net.4.", "net.5."): array for name, array in copied.items()}
    elif fault == "shape":
        copied["net.4.weight"] = copied["net.4.weight"].reshape(16, 4)
    elif fault == "type":
        copied["net.4.weight"] = copied["net.4.weight"].astype(np.float64)
    copied["net.0.bias"] = plan.changes[0].new
    with pytest.raises(RepairFailed, match="does not hold the same tensors"):
        compare_tensors(before, build_checkpoint(copied, path="copy"), plan, {})


def test_a_copy_with_new_damage_does_not():
    old, new = Flaw("bytes behind the end of memory"), Flaw("a wrong checksum in copy")
    shard, copied_shard = Flaw("part.safetensors is cut short"), Flaw("part.new is cut short")
    before = replace(build_checkpoint(sick_network()), flaws=(old, shard))
    plan = plan_for(before)
    copied = sick_network() | {"net.0.bias": plan.changes[0].new}
    after = build_checkpoint(copied, path="copy")
    known = replace(after, flaws=(Flaw("bytes behind the end of copy"), copied_shard))
    compare_tensors(before, known, plan, {Path("part.safetensors"): Path("part.new")})
    with pytest.raises(RepairFailed, match=r"the copy is damaged: part\.new is cut short"):
        compare_tensors(before, known, plan, {})
    with pytest.raises(RepairFailed, match="the copy is damaged: a wrong checksum in memory"):
        compare_tensors(before, replace(after, flaws=(new,)), plan, {})


# Nothing changes but the bytes that were announced


def spoil_copies(monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> None:
    """Let every copy of a file have other bytes in one place, which no reader looks at."""
    copy = safe_copy._copy

    def copy_and_spoil(source: int, target: int, size: int) -> None:
        copy(source, target, size)
        place = os.pread(target, size, 0).index(old)
        os.pwrite(target, new, place)

    monkeypatch.setattr(safe_copy, "_copy", copy_and_spoil)


def sharded(folder: Path) -> Path:
    """A model in two shards, of which the first is sick, with its index."""
    weights = sick_network()
    parts = {"a.safetensors": list(weights)[:2], "b.safetensors": list(weights)[2:]}
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, folder / file, metadata={"note": "made by hand"})
    weight_map = {name: file for file, names in parts.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def single(folder: Path) -> Path:
    save_file(sick_network(), folder / "model.safetensors", metadata={"note": "made by hand"})
    return folder / "model.safetensors"


@pytest.mark.parametrize("make", [single, sharded])
def test_a_copy_with_another_byte_than_announced_gets_no_name(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = make(tmp_path)
    names = {each.name for each in tmp_path.iterdir()}
    spoil_copies(monkeypatch, b"made by hand", b"made by Hand")
    result = repair(path)
    assert result.outcome is Outcome.FAILED
    assert "beyond what was announced" in (result.error or "")
    assert {each.name for each in tmp_path.iterdir()} == names


@pytest.mark.parametrize("make", [single, sharded])
def test_a_copy_without_such_a_byte_gets_one(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spoil_copies(monkeypatch, b"made by hand", b"made by hand")
    assert repair(make(tmp_path)).outcome is Outcome.FIXED


@pytest.mark.usefixtures("one_torch")
def test_a_negative_learning_rate_becomes_zero_and_nothing_else_changes(tmp_path: Path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(16, 6)).square().mean().backward()
    adam.step()
    adam.param_groups[0]["lr"] = -1e-6
    path = tmp_path / "model.pt"
    torch.save({"model_state_dict": model.state_dict(), "optimizer_state_dict": adam.state_dict()}, path)
    result = repair(path)
    assert result.outcome is Outcome.RELIEVED, result.error
    before, after = (torch.load(each, weights_only=True) for each in (path, result.output))
    assert after["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.0
    after["optimizer_state_dict"]["param_groups"][0]["lr"] = -1e-6
    assert after["optimizer_state_dict"]["param_groups"] == before["optimizer_state_dict"]["param_groups"]
    for name, values in before["model_state_dict"].items():
        assert torch.equal(values, after["model_state_dict"][name])


# Shards are examined through their index, once


def test_shards_are_examined_through_their_index_and_not_again_beside_it(tmp_path: Path):
    index = sharded(tmp_path)
    for uri in (str(tmp_path), str(tmp_path.parent / "*" / "")):
        assert [each.path for each in find_candidates([uri], CRITERIA).candidates if str(tmp_path) in each.path] == [
            str(index)
        ]
    (examination,) = scan([tmp_path], catalogue=CATALOGUE).checkpoints
    assert len(examination.tensors) == len(sick_network())


def test_shards_without_an_index_and_other_files_beside_one_are_examined(tmp_path: Path):
    index = sharded(tmp_path)
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    (tmp_path / "inside").mkdir()
    single(tmp_path / "inside")
    found = [Path(each.path).name for each in find_candidates([str(tmp_path)], CRITERIA).candidates]
    assert found == ["model.safetensors.index.json", "other.pt", "model.safetensors"]
    index.unlink()
    found = [Path(each.path).name for each in find_candidates([str(tmp_path)], CRITERIA).candidates]
    assert found == ["a.safetensors", "b.safetensors", "other.pt", "model.safetensors"]


def test_a_shard_that_is_named_is_examined(tmp_path: Path):
    sharded(tmp_path)
    assert [each.path for each in find_candidates([str(tmp_path / "a.safetensors")], CRITERIA).candidates] == [
        str(tmp_path / "a.safetensors")
    ]


def test_a_foreign_file_is_passed_over_only_where_nobody_named_it(tmp_path: Path):
    foreign = tmp_path / "notes[1].pt"
    foreign.write_text("just some text, " * 64)
    path = single(tmp_path)
    for uri in (str(tmp_path), str(tmp_path / "*")):
        assert [each.path for each in scan([uri], catalogue=CATALOGUE).checkpoints] == [str(path)]
    (named,) = scan([foreign], catalogue=CATALOGUE).checkpoints
    assert (named.path, named.verdict) == (str(foreign), Verdict.UNREADABLE)
    (missing,) = scan([tmp_path / "missing.pt"], catalogue=CATALOGUE).checkpoints
    assert missing.verdict is Verdict.UNREADABLE


def test_a_finding_about_a_tensor_names_its_layer(tmp_path: Path):
    (found,) = scan([single(tmp_path)], catalogue=CATALOGUE).findings
    assert (found.tensor, found.layer) == ("net.0.bias", "net.0")


# Zeros: nobody is accused of what the file does not prove


@pytest.mark.parametrize(("held", "severity"), [(True, Severity.ERROR), (False, Severity.WARNING)])
def test_zeros_that_no_optimizer_holds_are_no_error(held: bool, severity: Severity):
    weights = {name: np.zeros_like(array) if "bias" in name else array for name, array in sick_network().items()}
    moments = {
        name: {"step": 500, "exp_avg": np.zeros(array.shape), "exp_avg_sq": np.full(array.shape, second)}
        for name, array in weights.items()
        for second in [0.0 if "bias" in name else 1e-4]
        if held or "bias" not in name
    }
    checkpoint = build_checkpoint(weights, optimizer=moments, updates=500)
    (together,) = findings_of(zeros.bias_collapse, checkpoint)
    assert (together.severity, together.evidence["cause"]) == (severity, "never trained")
    for finding in findings_of(zeros.zero_bias, checkpoint):
        assert (finding.severity, finding.evidence["cause"]) == (Severity.WARNING, "never trained")
        assert finding.evidence["held_by_optimizer"] is held


def test_zeros_of_a_layer_that_was_never_trained_are_its_initial_values():
    weights = sick_network()
    moments = {
        name: {"step": 500, "exp_avg": np.zeros(array.shape), "exp_avg_sq": np.full(array.shape, second)}
        for name, array in weights.items()
        for second in [0.0 if name.startswith("net.0.") else 1e-4]
    }
    assert findings_of(zeros.zero_bias, build_checkpoint(weights, optimizer=moments, updates=500)) == []
    moments["net.0.weight"]["exp_avg_sq"] = np.full((16, 6), 1e-4)
    assert len(findings_of(zeros.zero_bias, build_checkpoint(weights, optimizer=moments, updates=500))) == 1


# What is hidden does not count, and what ckdoc says about itself cannot be hidden


def finding(code: str = "ZER003", number: int = 0, **fields: Any) -> Finding:
    return Finding(
        code, "zero-bias", Severity.ERROR, "all 16 biases are exactly zero", tensor=f"net.{number}.bias", **fields
    )


def report_on(*findings: Finding, fail_on: Severity | None = Severity.ERROR) -> Report:
    examination = Examination("model.pt", "torch", Verdict.ILL, findings=findings)
    return Report((examination,), rules=1, fail_on=fail_on)


def test_hidden_findings_are_in_the_report_and_count_nowhere():
    report = report_on(finding(ignored="by design"), finding(number=2, ignored="by design"))
    (examination,) = report.checkpoints
    assert len(examination.findings) == report.hidden == 2
    assert (list(examination.counted), examination.worst, list(report.findings)) == ([], None, [])
    assert not report.failed
    assert "0 findings, 2 hidden by config" in report.summary_line


IGNORING = Config((Section("here", ignores=(Ignore(("ALL",), "by design"),)),))


def test_hidden_findings_fail_no_run(tmp_path: Path):
    path = single(tmp_path)
    for config, fails in ((None, True), (IGNORING, False)):
        fails_on_warnings = Config((*(config.sections if config else ()), Section("command line", fail_on="warning")))
        report = scan([path], catalogue=CATALOGUE, config=fails_on_warnings)
        assert report.failed is fails


def test_a_checkpoint_whose_errors_are_all_hidden_is_healthy(tmp_path: Path):
    path = single(tmp_path)
    raised = Section("file", severities={"ZER003": Severity.ERROR})
    for sections, verdict in (((raised,), Verdict.ILL), ((raised, *IGNORING.sections), Verdict.HEALTHY)):
        report = scan([path], catalogue=CATALOGUE, config=Config(sections))
        assert [each.verdict for each in report.checkpoints] == [verdict]


def test_hidden_findings_are_not_repaired(tmp_path: Path):
    path = single(tmp_path)
    result = repair(path, IGNORING)
    assert result.outcome is Outcome.NOTHING
    assert not result.leaves_illness(Severity.NOTE)
    assert repair(path).outcome is Outcome.FIXED


def planned(findings: Sequence[Finding], checkpoint: Checkpoint, **options: Any) -> list[str]:
    return [each.tensor.name for each in plan_repairs(checkpoint, findings, **options).changes]


def test_only_findings_that_count_and_are_severe_enough_are_planned():
    checkpoint = build_checkpoint(sick_network())
    found = findings_of(zeros.zero_bias, checkpoint)
    assert planned(found, checkpoint) == ["net.0.bias"]
    assert planned([replace(each, ignored="by design") for each in found], checkpoint) == []
    notes = [replace(each, severity=Severity.NOTE) for each in found]
    assert planned(notes, checkpoint) == []
    assert planned(notes, checkpoint, least=Severity.NOTE) == ["net.0.bias"]


@pytest.mark.parametrize(
    ("safety", "allowed", "why"),
    [
        (Safety.UNSAFE, {Safety.SAFE, Safety.ON_REQUEST}, "--unsafe"),
        (Safety.ON_REQUEST, {Safety.SAFE, Safety.UNSAFE}, "--recycle"),
        (Safety.SAFE, {Safety.SAFE}, None),
    ],
)
def test_only_repairs_that_are_allowed_are_planned(safety: Safety, allowed: set[Safety], why: str | None):
    checkpoint = build_checkpoint(sick_network())
    (found,) = findings_of(zeros.zero_bias, checkpoint)
    found = replace(found, repairs=tuple(replace(each, safety=safety) for each in found.repairs))
    plan = plan_repairs(checkpoint, [found], allowed=frozenset(allowed))
    assert bool(plan.changes) is (why is None)
    assert [each.why for each in plan.unfixed] == ([] if why is None else [f"it needs {why}"])


def test_a_baseline_hides_nothing_that_ckdoc_says_about_itself():
    crash = report_crash(zeros.zero_bias, ValueError("no"))
    unused = finding("CKD002")
    own = [crash, unused]
    known = {Entry("model.pt", identify(each)): extent_of(each) for each in [*own, finding()]}
    baseline = Baseline("baseline.json", known)
    result = apply_baseline(report_on(*own, finding()), baseline)
    assert [each.code for each in result.checkpoints[0].counted] == [crash.code, unused.code]
    stale = find_stale(report_on(*own, finding()), baseline, lambda code, path: True)
    assert {each.entry.key.code for each in stale} == {crash.code, unused.code}


def test_no_ignore_hides_that_a_rule_crashed():
    settings = IGNORING.for_path("model.pt")
    crash = settings.judge(report_crash(zeros.zero_bias, ValueError("no")), "model.pt")
    assert crash.ignored is None
    assert settings.judge(finding(), "model.pt").ignored == "by design"


# The chart leaves out only what it says that it leaves out


def chart(examination: Examination) -> str:
    return CATALOGUE.reporters["terminal"].render(Report((examination,), rules=1), CATALOGUE.rules, Page(width=200))


@pytest.mark.parametrize(("count", "more"), [(25, ""), (26, "1 more finding"), (40, "15 more findings")])
def test_twenty_five_findings_are_shown_and_the_others_counted(count: int, more: str):
    findings = tuple(finding(number=number) for number in range(count))
    text = chart(Examination("model.pt", "torch", Verdict.ILL, findings=findings))
    assert text.count("✖ error ZER003") == 25
    assert f"… {more}" in text if more else "more finding" not in text


@pytest.mark.parametrize(("count", "shown"), [(2, 2), (3, 1)])
def test_from_three_on_findings_that_say_the_same_are_one(count: int, shown: int):
    identity = zeros.zero_bias.identity
    findings = tuple(finding(number=number, identity=identity) for number in range(count))
    text = chart(Examination("model.pt", "torch", Verdict.ILL, findings=findings))
    assert text.count("✖ error ZER003") == shown
    named = {f"net.{number}.bias" for number in range(count)}
    assert set(re.findall(r"net\.\d+\.bias", text.replace("net.{1,2}.bias", "net.1.bias net.2.bias"))) == named


def test_what_breaks_the_promises_and_the_mutants_still_finds_its_code() -> None:
    package = ROOT / "checkpoint_doctor"
    for each in promises.BREAKS:
        assert (package / each.file).read_text(encoding="utf-8").count(each.before) == 1, each.promise
    for pattern in (*mutants.MODULES, *mutants.TESTS):
        assert list(package.glob(pattern)), pattern
