"""Safetensors files with new values are what the library would have written; of shards only the touched ones change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from patched_files import applied, by_name, patched, refusal

from checkpoint_doctor.builtin.loaders.safetensors.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.plugins.protocols import Reindexer
from checkpoint_doctor.sources import FileSource

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

FLOATING = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("dtype", [*FLOATING, "complex64", "int64", "uint8", "bool"])
def test_the_result_is_what_the_library_writes_of_the_new_values(dtype: str) -> None:
    kind = getattr(torch, dtype)
    state = {"a": torch.ones(3).to(kind), "b": torch.arange(6).view(2, 3).to(kind), "c": torch.ones(()).to(kind)}
    content = safetensors.save(state, {"format": "pt"})
    wanted = np.array([[0, 1, 1], [0, 0, 1]]) if dtype in ("bool", "int64", "uint8") else np.full((2, 3), 0.3)
    new = {"b": wanted, "c": np.array(0.0)}
    result = patched(loader, content, by_name(new))
    expected = {**state, **{name: torch.tensor(values).to(kind) for name, values in new.items()}}
    assert result == safetensors.save(expected, {"format": "pt"})


def test_a_value_beyond_the_type_is_refused() -> None:
    content = safetensors.save({"a": torch.ones(2, dtype=torch.float8_e4m3fn)})
    assert refusal(loader, content, by_name({"a": np.array([1.0, 1e5])})).message.startswith("100000.0 cannot be")


WEIGHTS = {
    "model-1.safetensors": {"a": torch.arange(4.0), "b": torch.ones(2)},
    "model-2.safetensors": {"c": torch.arange(3.0)},
}
WEIGHT_MAP = {name: shard for shard, weights in WEIGHTS.items() for name in weights}


def write_shards(folder: Path, index: str) -> Path:
    for shard, weights in WEIGHTS.items():
        safetensors.save_file(weights, folder / shard)
    path = folder / "model.safetensors.index.json"
    path.write_text(index, encoding="utf-8")
    return path


def open_shards(folder: Path, index: str) -> Checkpoint:
    return loader.open(FileSource(write_shards(folder, index)))


def test_only_the_shards_with_changes_are_patched(tmp_path: Path) -> None:
    checkpoint = open_shards(tmp_path, json.dumps({"weight_map": WEIGHT_MAP}))
    new = np.array([5.0, 1.0, 2.0, 3.0])
    patches = loader.patch(checkpoint, by_name({"a": new, "c": np.arange(3.0)})(checkpoint))
    ((source, of_shard),) = patches.items()
    assert Path(source.name) == tmp_path / "model-1.safetensors"
    result = applied(Path(source.name).read_bytes(), of_shard)
    assert safetensors.load(result)["a"].tolist() == new.tolist()
    both = loader.patch(checkpoint, by_name({"a": new, "c": np.ones(3)})(checkpoint))
    assert [Path(each.name).name for each in both] == sorted(WEIGHTS)


RENAMED = {"model-1.safetensors": "model-1_FIXED.safetensors"}

INDEXES = {
    "as transformers writes it": json.dumps(
        {"metadata": {"total_size": 36}, "weight_map": WEIGHT_MAP}, indent=2, sort_keys=True
    )
    + "\n",
    "compact": json.dumps({"weight_map": WEIGHT_MAP, "metadata": {}}, separators=(",", ":")),
    "tabs": json.dumps({"weight_map": WEIGHT_MAP}, indent="\t"),
    "the shard's name elsewhere": json.dumps(
        {
            "model-1.safetensors": "model-1.safetensors",
            "metadata": {"first": "model-1.safetensors", "weight_map": {"x": ["model-1.safetensors"]}},
            "weight_map": WEIGHT_MAP,
            "häufig": 1.50,
        },
        ensure_ascii=False,
    ),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_an_index_keeps_its_form_and_names_the_new_shards(tmp_path: Path, index: str) -> None:
    checkpoint = open_shards(tmp_path, index)
    assert isinstance(loader, Reindexer)
    written = loader.reindex(checkpoint, RENAMED).decode("utf-8")
    expected = json.loads(index)
    expected["weight_map"] = {name: RENAMED.get(shard, shard) for name, shard in WEIGHT_MAP.items()}
    assert json.loads(written) == expected
    assert written.replace("_FIXED", "") == index


def test_a_name_in_escapes_is_recognised(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": WEIGHT_MAP}).replace("model-1.", "model\\u002d1.")
    written = json.loads(loader.reindex(open_shards(tmp_path, index), RENAMED))
    assert written["weight_map"] == {"a": RENAMED["model-1.safetensors"], "b": RENAMED["model-1.safetensors"]} | {
        "c": "model-2.safetensors"
    }


def test_what_an_index_does_not_name_cannot_be_renamed(tmp_path: Path) -> None:
    checkpoint = open_shards(tmp_path, json.dumps({"weight_map": WEIGHT_MAP}))
    with pytest.raises(RepairFailed, match=r"lists no shard model-3\.safetensors"):
        loader.reindex(checkpoint, {"model-3.safetensors": "x"})
    single = loader.open(FileSource(tmp_path / "model-1.safetensors"))
    with pytest.raises(RepairFailed, match="single file"):
        loader.reindex(single, {})
