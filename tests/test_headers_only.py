"""A scan whose rules ask for no values: nothing but headers is read, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file
from typer.testing import CliRunner

from checkpoint_doctor import scan, to_json
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.cli.application import app
from checkpoint_doctor.config.settings import COMMAND_LINE, Config, Section
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.plugins.rule import rule
from checkpoint_doctor.results.findings import Finding, Severity
from checkpoint_doctor.results.json_reading import from_json
from checkpoint_doctor.sources.local_file import FileSource

FILES = Config((Section(COMMAND_LINE, select=("FIL",)),))
SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_text())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of 8 MB in which one value is NaN."""
    weights = {f"{at:02}.weight": np.full((256, 256), 0.1 + at, np.float32) for at in range(32)}
    weights["07.weight"][3, 5] = np.nan
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a local file asks for."""
    counts: list[int] = []
    read_into = FileSource.read_into

    def note(self: FileSource, offset: int, buffer: memoryview) -> None:
        counts.append(len(buffer))
        read_into(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", note)
    return counts


@rule("XYZ001", "liar", Severity.ERROR, on=Checkpoint, reads_values=False)
def liar(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Reads values although it says that it does not."""
    for tensor in checkpoint.tensors:
        if tensor.statistics.nan:
            yield liar.finding("is not a number", tensor)


def test_the_tensors_are_not_read_where_no_selected_rule_asks_for_values(model: Path, reads: list[int]) -> None:
    [entry] = scan(model, config=FILES).checkpoints
    assert sum(reads) < model.stat().st_size / 100
    assert (entry.verdict.value, len(entry.tensors), entry.is_measured) == ("healthy", 32, False)
    reads.clear()
    [entry] = scan(model).checkpoints
    assert sum(reads) > model.stat().st_size
    assert (entry.verdict.value, entry.is_measured) == ("ill", True)


def test_one_rule_that_asks_for_values_is_enough_to_measure_everything(model: Path) -> None:
    [entry] = scan(model, config=Config((Section(COMMAND_LINE, select=("FIL", "VAL001")),))).checkpoints
    assert entry.is_measured
    assert [finding.code for finding in entry.findings] == ["VAL001"]


def test_a_rule_that_asks_although_it_declared_not_to_is_right_all_the_same(model: Path) -> None:
    installed = discover_working()
    catalogue = replace(installed, rules=(*installed.rules, liar))
    [entry] = scan(model, catalogue=catalogue, config=Config((Section(COMMAND_LINE, select=("XYZ",)),))).checkpoints
    assert [finding.tensor for finding in entry.findings] == ["07.weight"]


def test_the_figures_are_unknown_in_json_and_on_the_terminal(model: Path) -> None:
    document = to_json(scan(model, config=FILES))
    jsonschema.validate(document, SCHEMA)
    [entry] = document["checkpoints"]
    assert [entry["summary"][name] for name in ("zeros", "zero_fraction", "nonfinite")] == [None] * 3
    assert {tensor[name] for tensor in entry["tensors"] for name in ("zeros", "nonfinite", "minimum", "norm")} == {None}
    assert to_json(from_json(document))["checkpoints"] == document["checkpoints"]
    for format_name in ("terminal", "markdown", "html", "concise"):
        result = CliRunner().invoke(app, ["scan", "--select", "FIL", "--format", format_name, str(model)])
        assert result.exit_code == 0
        shown = " ".join(result.output.split())
        assert "values not read, since no selected rule asks for them" in shown


def test_checksums_are_verified_where_a_rule_about_files_asks_for_them(fixtures: Path, tmp_path: Path) -> None:
    content = bytearray((fixtures / "case_5_zero_head.pt").read_bytes())
    content[len(content) // 2] ^= 0x40
    (tmp_path / "model.pt").write_bytes(content)
    [entry] = scan(tmp_path / "model.pt", config=FILES).checkpoints
    assert [finding.code for finding in entry.findings] == ["FIL001"]
