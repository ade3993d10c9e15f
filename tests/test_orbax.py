"""Orbax's folders: arrays and training states, steps of a manager, and what is missing or damaged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.builtin.loaders.orbax.loader import loader
from checkpoint_doctor.errors import RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.layers import Kind
from checkpoint_doctor.sources import Folder

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


def metadata(*paths: tuple[str, ...], **fields: Any) -> dict[str, Any]:
    tree = {
        str(path): {
            "key_metadata": [{"key": key, "key_type": 2} for key in path],
            "value_metadata": {"value_type": "jax.Array"},
        }
        for path in paths
    }
    return {"tree_metadata": tree, "use_zarr3": False, **fields}


def write_metadata(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "_METADATA").write_text(text)
    return folder


def test_folders_of_checkpoints_and_of_steps_are_claimed(tmp_path: Path) -> None:
    item = write_metadata(tmp_path / "item", metadata(("a",)))
    assert loader.claim_folder(Folder.read(item)) == {"_METADATA"}
    write_metadata(tmp_path / "10" / "default", metadata(("a",)))
    assert not loader.claim_folder(Folder.read(tmp_path / "10"))
    (tmp_path / "10" / "_CHECKPOINT_METADATA").write_text("{}")
    assert loader.claim_folder(Folder.read(tmp_path / "10")) == {"_CHECKPOINT_METADATA", "default"}
    assert not loader.claim_folder(Folder.read(tmp_path))


def test_without_the_library_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    folder = write_metadata(tmp_path / "item", metadata(("a",)))
    with pytest.raises(UnreadableCheckpoint, match="the library tensorstore that reads it is not installed") as caught:
        loader.open_folder(Folder.read(folder))
    assert caught.value.hint == "pip install 'checkpoint-doctor[orbax]'"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no tree_metadata"),
        ({"tree_metadata": {"a": 3}}, "no keys or no type"),
        ({"tree_metadata": {"a": {"key_metadata": [], "value_metadata": {}}}}, "no keys or no type"),
        ({"tree_metadata": {"a": {"key_metadata": [{"key": 3}], "value_metadata": {}}}}, "a key is not text"),
        (metadata(("..", "secret")), "not a name in its own folder"),
        (metadata(("/etc/passwd",)), "not a name in its own folder"),
    ],
)
def test_damaged_metadata_are_refused(tmp_path: Path, content: Any, says: str) -> None:
    folder = write_metadata(tmp_path / "item", content)
    with pytest.raises(UnreadableCheckpoint, match=says):
        loader.open_folder(Folder.read(folder))


def test_a_save_that_was_not_finished_is_named(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "10.orbax-checkpoint-tmp-123", metadata(("a",)))
    with pytest.raises(UnreadableCheckpoint, match="was not finished"):
        loader.open_folder(Folder.read(folder))


def state() -> dict[str, Any]:
    params = {
        "Conv_0": {"kernel": draw(3, 3, 3, 8), "bias": draw(8)},
        "Dense_0": {"kernel": draw(8, 16), "bias": draw(16)},
        "Dense_1": {"kernel": draw(16, 16), "bias": draw(16)},
        "Dense_2": {"kernel": draw(16, 4), "bias": draw(4)},
    }

    def moments(scale: float) -> Any:
        return {name: {key: np.abs(each) * scale for key, each in tree.items()} for name, tree in params.items()}

    adam = {"count": np.array(40, np.int32), "mu": moments(0.01), "nu": moments(1e-3)}
    return {"step": 40, "params": params, "opt_state": {"0": adam, "1": {}}}


def save(tree: Any, folder: Path, *, is_database: bool = True, is_zarr3: bool = False) -> Path:
    orbax = pytest.importorskip("orbax.checkpoint")
    handler = orbax.PyTreeCheckpointHandler(use_ocdbt=is_database, use_zarr3=is_zarr3)
    orbax.Checkpointer(handler).save(folder, tree)
    return folder


@pytest.mark.parametrize(("is_database", "is_zarr3"), [(True, False), (False, False), (True, True)])
def test_a_training_state_is_read_as_orbax_wrote_it(tmp_path: Path, is_database: bool, is_zarr3: bool) -> None:
    tree = state()
    folder = save(tree, tmp_path / "saved", is_database=is_database, is_zarr3=is_zarr3)
    found = loader.open_folder(Folder.read(folder))
    for module, leaves in tree["params"].items():
        for leaf, values in leaves.items():
            tensor = found.by_name[f"params/{module}/{leaf}"]
            assert np.array_equal(tensor.array, values)
            assert np.array_equal(np.concatenate([each.copy() for each in tensor.values.blocks(7)]), values.ravel())
    moments = found.moments["params/Dense_0/kernel"]
    assert (moments.step, found.step) == (40, 40)
    assert moments.second is not None
    assert np.array_equal(moments.second.array, tree["opt_state"]["0"]["nu"]["Dense_0"]["kernel"])
    kinds = {layer.name: layer.kind for layer in found.layers}
    assert kinds["Conv_0"] is Kind.KERNEL
    assert kinds["Dense_0"] is Kind.LINEAR
    [examination] = scan([folder]).checkpoints
    assert (examination.format, examination.findings) == ("orbax", ())


def test_sick_arrays_are_found_and_not_patched(tmp_path: Path) -> None:
    tree = state()
    tree["params"]["Dense_1"]["kernel"][...] = 0
    tree["params"]["Dense_0"]["kernel"][2, 3] = np.nan
    folder = save(tree, tmp_path / "saved")
    [examination] = scan([folder]).checkpoints
    found = {each.tensor: each.code for each in examination.findings}
    assert {"params/Dense_1/kernel": "ZER001", "params/Dense_0/kernel": "VAL001"}.items() <= found.items()
    with pytest.raises(RepairFailed, match="cannot be changed in place"):
        loader.patch(loader.open_folder(Folder.read(folder)), {})


def test_steps_of_a_manager_are_found_one_by_one(tmp_path: Path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint")
    manager = orbax.CheckpointManager(tmp_path / "run")
    for step in (10, 20):
        manager.save(step, args=orbax.args.StandardSave({"params": state()["params"]}))
    manager.wait_until_finished()
    found = scan([tmp_path / "run"]).checkpoints
    assert [(Path(each.path).name, each.step, each.findings) for each in found] == [("10", 10, ()), ("20", 20, ())]


def test_what_is_missing_is_said_and_never_taken_for_zeros(tmp_path: Path) -> None:
    folder = save(state()["params"], tmp_path / "saved", is_database=False)
    shutil.rmtree(folder / "Dense_0.kernel")
    found = loader.open_folder(Folder.read(folder))
    assert [each.member for each in found.flaws] == ["Dense_0/kernel"]
    (folder / "Dense_1.kernel" / "0.0").unlink()
    [examination] = scan([folder]).checkpoints
    assert examination.error is not None
    assert "the array Dense_1/kernel cannot be read" in examination.error
    for name in list(folder.iterdir()):
        if name.is_dir():
            shutil.rmtree(name)
    with pytest.raises(UnreadableCheckpoint, match=r"nothing of .* can be read"):
        loader.open_folder(Folder.read(folder))
