"""Folders written by DeepSpeed itself, where it is installed (see tests/README.md)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.report import Verdict

pytest.importorskip("deepspeed")

CATALOGUE = discover()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeeds_partitions_are_put_together_as_deepspeed_does(stage: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("deepspeed_run.py")
    command = [sys.executable, str(script), str(stage), "2", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    report = scan([tmp_path / "run"], catalogue=CATALOGUE)
    (examination,) = report.checkpoints
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "deepspeed")
    checkpoint = open_checkpoint(examination.path, CATALOGUE)
    loaded = torch.load(tmp_path / "weights.pt")
    assert {each.name for each in checkpoint.tensors} == loaded.keys()
    assert all(np.array_equal(each.array, loaded[each.name].numpy()) for each in checkpoint.tensors)
    assert len(checkpoint.moments) == 8
    for name, moments in checkpoint.moments.items():
        for key in ("exp_avg", "exp_avg_sq"):
            expected = torch.load(tmp_path / "universal" / "zero" / name / f"{key}.pt")
            whole = expected["param"] if isinstance(expected, dict) else expected  # of ZeRO 3 it is flat
            assert np.array_equal(moments.state[key].array.reshape(-1), whole.numpy().reshape(-1)), (name, key)
