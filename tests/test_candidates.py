"""The examination of a candidate as a task: it can be sent to another process, and so can what comes of it."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_doctor import RepairFailed, Report, Skipped, Unsearched, discover, load_config, scan, to_json
from checkpoint_doctor.acts.scan import find_checkpoints, make_tasks
from checkpoint_doctor.examination.candidates import CandidateTask, examine_candidate
from checkpoint_doctor.results.report import Examination
from checkpoint_doctor.sources.search import Candidate


def test_a_task_that_was_sent_elsewhere_comes_to_the_same(fixtures: Path, tmp_path: Path) -> None:
    file = tmp_path / "ckdoc.toml"
    file.write_text('[severity]\nZER003 = "note"\n[[ignore]]\ncode = "OPT"\nreason = "known"\n')
    catalogue = discover()
    config = load_config(catalogue.rules, causes=catalogue.causes, file=str(file))
    asked: dict[str, Any] = {"histograms": True, "with_settings": True}
    here = scan(fixtures, catalogue=catalogue, config=config, **asked)
    candidates = find_checkpoints(fixtures, catalogue, config).candidates
    sent = [pickle.loads(pickle.dumps(task)) for task in make_tasks(candidates, config, **asked)]
    returned = [pickle.loads(pickle.dumps(examine_candidate(task))) for task in sent]
    there = Report(tuple(each for each in returned if isinstance(each, Examination)), here.rules)
    assert len(there.checkpoints) == len(here.checkpoints) > 5
    assert to_json(there)["checkpoints"] == to_json(here)["checkpoints"]


def test_what_is_no_checkpoint_comes_back_as_a_value(tmp_path: Path) -> None:
    image, words = tmp_path / "picture.pt", tmp_path / "notes.bin"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    words.write_bytes(bytes(range(256)))
    come = [
        examine_candidate(pickle.loads(pickle.dumps(CandidateTask(Candidate(str(path), named, expected), _usual()))))
        for path, named, expected in ((image, False, True), (image, True, True), (words, False, False))
    ]
    assert [type(each) for each in come] == [Skipped, Examination, Unsearched]
    assert pickle.loads(pickle.dumps(come)) == come


def test_a_finished_examination_keeps_no_file_open_and_describes_its_repairs(fixtures: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    report = scan([fixtures / "case_5_zero_head.pt", fixtures / "case_2_overwritten.zip"])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    repairs = [repair for finding in report.findings for repair in finding.repairs]
    assert all(repair.init_rule for repair in repairs)
    assert repairs
    with pytest.raises(RepairFailed):
        repairs[0].renew(np.zeros(3), np.random.default_rng(0))


def _usual() -> Any:
    return load_config(discover().rules).for_path("")
