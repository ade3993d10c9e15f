"""Small files that ask for very much are refused in one sentence, and what is ordinary is not."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from benchmarks import bomb_files, bombs_of_formats  # noqa: F401 - the second adds to the bombs of the first
from benchmarks.bomb_files import BOMBS
from benchmarks.bombs import Cost
from benchmarks.pickle_code import listed, mapping, number, row, tensor, text, torch_zip, vector, zipped
from checkpoint_doctor import open_checkpoint, scan, to_json
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.plugins.log_opening import read_log
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.sources import FileSource, MemorySource, Section
from checkpoint_doctor.sources.budget import OBJECTS, Allowance, Budget

THINGS = Allowance("things", 100, 1 / 2)

TRIED = (
    "a_tensor_without_a_name.pt", "arrays_of_one_text.pkl", "bytes_as_keys.pkl", "colliding_keys.pkl",
    "colliding_list_as_a_set.pkl", "colliding_members_of_a_frozen_set.pkl", "colliding_pairs.pkl",
    "deflated_opcodes.pt", "endless_empty_moments.pt", "endless_rows_without_columns.pt", "expanded_moments.pt",
    "expanded_tensors.pt", "groups_of_one_list.pt", "header_of_99_megabytes.safetensors",
    "modules_with_long_names.pt", "modules_within_modules.pt", "nested_settings_of_an_agent.zip",
    "one_file_loaded_again_and_again.pkl", "overlapping_members.pt", "overlapping_views.pt",
    "settings_of_long_integers.pt", "settings_of_one_long_text.pt", "settings_within_settings.pt",
    "storage_of_nested_lists.pkl", "wide_tuples_as_keys.pkl",
    "vocabulary_of_96_megabytes.gguf", "arrays_of_empty_arrays.gguf", "numbers_one_by_one.onnx",
    "long_headers_of_arrays.npz", "many_names_of_one_data_set.weights.h5",
    "many_names_of_one_packed_data_set.weights.h5", "groups_that_have_each_other_twice.weights.h5",
    "chunks_of_one_element.weights.h5",
)  # fmt: skip
"""The bombs that are made in no time; ``benchmarks.bombs`` tries all, and measures their memory."""


def test_a_file_may_ask_for_more_the_larger_it_is() -> None:
    small, large = Budget("small.pt", 10), Budget("large.pt", 1000)
    large.spend(THINGS, 600)
    small.spend(THINGS, 105)
    with pytest.raises(UnreadableCheckpoint) as refused:
        small.spend(THINGS, 1)
    assert "small.pt asks for more than 105 things" in refused.value.message
    assert large.left(THINGS) == 0
    assert large.left(OBJECTS) == OBJECTS.of(1000)


def test_every_part_of_a_file_spends_from_its_budget(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    file = FileSource(tmp_path / "file")
    part = Section("part", Section("half", file, 0, 50), 10, 10)
    inflated = MemorySource("inflated", bytes(1000), part.budget)
    inflated.budget.spend(THINGS, 150)
    assert file.budget.left(THINGS) == 0
    assert FileSource(tmp_path / "file").budget.left(THINGS) == 150


@pytest.mark.parametrize("name", TRIED)
def test_bombs_take_little_time_and_end_in_a_sentence(name: str, tmp_path: Path) -> None:
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    bomb = BOMBS[name]
    (tmp_path / name).write_bytes(bomb.make())
    began = time.process_time()
    (examination,) = scan([tmp_path / name], jobs=1).checkpoints
    assert time.process_time() - began < 5
    assert (examination.verdict is Verdict.UNREADABLE) == bomb.is_refused
    if bomb.is_refused:
        assert "\n" not in (examination.error or "\n")
        assert "bug" not in examination.hint
    assert not any(finding.is_about_ckdoc for finding in examination.findings)


@pytest.mark.parametrize("name", ["storage_of_nested_lists.pkl", "expanded_tensors.pt", "shared_large_moments.pt"])
def test_bombs_take_little_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BOMBS[name].make())
    tracemalloc.start()
    try:
        scan([tmp_path / name], jobs=1)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_log_whose_records_have_other_keys_takes_little_memory(tmp_path: Path) -> None:
    records = [{"step": step, f"k{step}": 1} for step in range(4_500)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 1, "log_history": records}))
    tracemalloc.start()
    try:
        log = read_log(tmp_path / "trainer_state.json")
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    step, *others = log.metrics
    assert (log.records, log.step_name, step.recorded.count) == (4_500, "step", 4_500)
    assert [(each.name, each.recorded.steps[0]) for each in others] == [(f"k{at}", at) for at in range(4_500)]


def test_the_goals_are_judged() -> None:
    assert Cost(0.5, 60.0, 2, "it is refused").judge(is_refused=True, is_fix=False) == ""
    wrong = Cost(2.5, 500.0, 1, "Traceback").judge(is_refused=True, is_fix=False)
    assert wrong == "2.5 s, 500 MB, exit code 1, 'Traceback' in its output"
    assert Cost(0.5, 60.0, 0, "").judge(is_refused=False, is_fix=True) == "no word"


def beside_a_weight(key: str, code: bytes) -> bytes:
    return torch_zip(mapping([(text("weight"), vector("0", 4)), (text(key), code)]), {"0": bytes(16)})


@pytest.mark.parametrize(
    "code",
    [
        listed([number(at) for at in range(200_000)]),
        listed([b"]"] * 100_000),
        mapping((row(number(at), number(-at)), b"N") for at in range(30_000)),
        mapping((b"G" + bytes([64, at % 256, at // 256, 0, 0, 0, 0, 0]), b"N") for at in range(30_000)),
        b"]" * 5_000 + b"a" * 4_999,
    ],
    ids=["numbers", "lists", "pairs as keys", "floats as keys", "nested lists"],
)
def test_ordinary_contents_beside_the_model_are_read(code: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(beside_a_weight("log", code))
    assert [each.name for each in open_checkpoint(tmp_path / "model.pt").tensors] == ["weight"]


def test_many_small_tensors_are_read(tmp_path: Path) -> None:
    count = 8_000
    pairs = [(text(f"layers.{at}.weight"), vector(str(at), 2)) for at in range(count)]
    (tmp_path / "model.pt").write_bytes(torch_zip(mapping(pairs), {str(at): bytes(8) for at in range(count)}))
    assert len(open_checkpoint(tmp_path / "model.pt").tensors) == count


def test_names_of_the_same_bytes_take_nothing_from_the_budget(tmp_path: Path) -> None:
    """A module that is used in 50 places is in the file 50 times, and measured once."""
    code = tensor(bomb_files.storage("0", 1_000_000), (1000, 1000), (1000, 1))
    pairs = [(text(f"layers.{at}.weight"), code) for at in range(50)]
    (tmp_path / "model.pt").write_bytes(torch_zip(mapping(pairs), {"0": bytes(4_000_000)}))
    opened = open_checkpoint(tmp_path / "model.pt")
    assert (len(opened.tensors), len(opened.distinct_tensors), opened.skipped) == (50, 1, ())


def test_moments_of_the_same_bytes_are_measured_once(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(BOMBS["shared_moments.pt"].make())
    (optimizer,) = open_checkpoint(tmp_path / "model.pt").optimizers
    assert len({id(moments.statistics) for moments in optimizer.parameters}) == 1


@pytest.mark.parametrize("value", [10**1200, -(10**1200), 2**64])
def test_integers_that_nothing_counts_to_are_words(value: int, tmp_path: Path) -> None:
    settings = mapping([(text("gamma"), number(value)), (text("max_epochs"), number(3))])
    (tmp_path / "model.pt").write_bytes(beside_a_weight("hyper_parameters", settings))
    report = scan([tmp_path / "model.pt"])
    (examination,) = report.checkpoints
    assert examination.hyperparameters["max_epochs"] == 3
    assert "an integer of" in examination.hyperparameters["gamma"]
    assert not any(finding.is_about_ckdoc for finding in examination.findings)
    assert to_json(report)


def test_settings_nested_700_deep_are_cut_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "agent.zip").write_bytes(BOMBS["nested_settings_of_an_agent.zip"].make())
    report = scan([tmp_path / "agent.zip"])
    assert "…" in str(to_json(report)["checkpoints"][0]["hyperparameters"])


def test_the_settings_of_an_agent_may_hold_anything_that_json_can(tmp_path: Path) -> None:
    policy = torch_zip(mapping([(text("weight"), vector("0", 4))]), {"0": bytes(16)})
    data = b'{"gamma": 1e400, "ent_coef": -1e999, "tau": ' + b"9" * 1200 + b', "n": NaN}'
    (tmp_path / "agent.zip").write_bytes(
        zipped({"data": data, "policy.pth": policy, "_stable_baselines3_version": b"2.0"})
    )
    (examination,) = scan([tmp_path / "agent.zip"]).checkpoints
    assert not any(finding.is_about_ckdoc for finding in examination.findings)
