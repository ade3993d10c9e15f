"""The monitor on two processes with gloo: one of them reports, and all stop together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.results.report import Verdict


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes wrote, in a folder for each way to share the work."""
    folder = tmp_path_factory.mktemp("processes")
    for how in ("ddp", "fsdp"):
        (folder / how).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.monitored_processes", str(folder), "45"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [each.communicate(timeout=120)[1] for each in processes]
    assert [each.returncode for each in processes] == [0, 0], errors
    return folder


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_one_process_reports_and_all_stop_before_the_weights(how: str, trained: Path) -> None:
    first, second = (json.loads((trained / how / f"{rank}.json").read_text()) for rank in range(2))
    assert first["step"] == second["step"] == 45
    assert first["finite"]
    assert second["finite"]
    assert first["news"] == ["nonfinite-gradient"]
    assert first["checks"] == 4
    assert first["shapes"][0] == [32, 8]
    assert second["told"] == ""
    kept = torch.load(trained / how / "healthy.pt")
    assert kept["step"] == 40
    assert next(iter(kept["model"].values())).shape == (32, 8)
    [saved] = scan([trained / how / "healthy.pt"]).checkpoints
    assert saved.verdict is Verdict.HEALTHY
    assert saved.step == 40
    if how == "fsdp":
        assert first["told"].startswith("[ckdoc] repair left out: the model is spread over 2 processes\n")
        assert first["resumed"]
        assert second["resumed"]
    assert second["checks"] == 0
    assert (trained / how / "series-0.json").is_file()
    assert not (trained / how / "series-1.json").exists()
