"""Distributed checkpoints: every tensor and moment is what PyTorch loads, and an incomplete save is said exactly."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from distributed_saves import (
    load_with_torch,
    make_states,
    make_tied_states,
    one_process_group,
    save,
    save_with_two_ranks,
    sharded,
)
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata

from checkpoint_doctor import open_checkpoint, scan
from checkpoint_doctor.builtin.loaders.distributed.loader import loader
from checkpoint_doctor.builtin.loaders.torch.loader import TorchLoader
from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.results.report import Verdict
from checkpoint_doctor.sources import Folder
from tests.built_files import build_once

STATES = ("bare", "by position", "by name", "flattened")


@pytest.fixture(scope="module")
def saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saves")
    for name, state in make_states().items():
        save(state, folder / name)
    return folder


@pytest.fixture(scope="module")
def shared() -> Path:
    if not torch.distributed.is_gloo_available():
        pytest.skip("PyTorch was built without gloo")
    return build_once("two_ranks", [ROOT / "tests" / "distributed_saves.py"], save_with_two_ranks)


@pytest.fixture
def broken(shared: Path, tmp_path: Path) -> Path:
    """A copy of the save of two ranks, to be damaged."""
    return Path(shutil.copytree(shared / "fsdp", tmp_path / "broken"))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def assert_equal(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint.by_name) == set(expected)
    for name, tensor in expected.items():
        ours = checkpoint.by_name[name]
        assert ours.shape == tuple(tensor.shape)
        assert ours.dtype == str(tensor.dtype).removeprefix("torch.")
        whole = as_array(tensor)
        np.testing.assert_array_equal(ours.values.read().astype(whole.dtype), whole)
        blocks = [block.copy() for block in ours.values.blocks(5)]
        np.testing.assert_array_equal(np.concatenate(blocks).astype(whole.dtype), whole.reshape(-1))


def edit(folder: Path, change: Any) -> None:
    """Change the metadata of a save as a faulty writer would."""
    path = folder / ".metadata"
    metadata: Metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("name", STATES)
def test_a_save_of_one_process_is_the_same_as_a_file_of_torch_save(saves: Path, name: str, tmp_path: Path) -> None:
    torch.save(make_states()[name], tmp_path / "state.pt")
    expected, found = open_checkpoint(tmp_path / "state.pt"), open_checkpoint(saves / name)
    assert found.format == "distributed"
    assert not found.damage
    assert not found.skipped
    if name != "flattened":  # the file has the moments among the weights
        assert [tensor.name for tensor in found.tensors] == [tensor.name for tensor in expected.tensors]
    for tensor in found.tensors:
        np.testing.assert_array_equal(tensor.array, expected.by_name[tensor.name].array)
    assert found.counters == expected.counters
    if name != "flattened":
        assert [part for part in found.parts if not part.file] == list(expected.parts)


@pytest.mark.parametrize("name", ["by name", "flattened"])
def test_every_parameter_of_an_optimizer_is_named(saves: Path, name: str) -> None:
    optimizer = make_states()["by name"]["optim"]
    checkpoint = open_checkpoint(saves / name)
    (found,) = checkpoint.optimizers
    assert (found.kind, found.unmatched, found.mismatch) == ("AdamW", "", "")
    assert {moments.tensor for moments in found.parameters} == set(optimizer["state"])
    for moments in found.parameters:
        state = optimizer["state"][moments.tensor]
        assert moments.step == 3
        assert moments.state.keys() == {"exp_avg", "exp_avg_sq"}
        for entry, tensor in moments.state.items():
            np.testing.assert_array_equal(tensor.array, state[entry].numpy())
        group = found.group_of(moments.index)
        assert group is not None
        assert group.learning_rate == (1e-3 if moments.tensor.startswith("0.") else 2e-3)
        assert group.options["betas"] == (0.9, 0.999)


def test_an_optimizer_by_position_is_read_as_from_a_file(saves: Path, tmp_path: Path) -> None:
    torch.save(make_states()["by position"], tmp_path / "state.pt")
    (expected,), (found,) = (
        open_checkpoint(tmp_path / "state.pt").optimizers,
        open_checkpoint(saves / "by position").optimizers,
    )
    assert [each.tensor for each in found.parameters] == [each.tensor for each in expected.parameters]
    assert [each.step for each in found.parameters] == [3] * len(expected.parameters)
    assert [dict(group.options) for group in found.groups] == [dict(group.options) for group in expected.groups]


def test_tensors_that_two_ranks_share_are_whole(shared: Path, tmp_path: Path) -> None:
    expected = load_with_torch(shared / "fsdp", tmp_path / "whole.pt")
    checkpoint = open_checkpoint(shared / "fsdp")
    assert_equal(checkpoint, expected["model"])
    (optimizer,) = checkpoint.optimizers
    assert {moments.tensor for moments in optimizer.parameters} == set(expected["optim"]["state"])
    for moments in optimizer.parameters:
        state = expected["optim"]["state"][moments.tensor]
        np.testing.assert_array_equal(moments.state["exp_avg"].array, state["exp_avg"].numpy())
        np.testing.assert_array_equal(moments.state["exp_avg_sq"].array, state["exp_avg_sq"].numpy())
        assert moments.statistics is not None


def test_every_placement_is_put_together(shared: Path, tmp_path: Path) -> None:
    expected = load_with_torch(shared / "placements", tmp_path / "whole.pt")
    assert len(expected) == 8
    assert_equal(open_checkpoint(shared / "placements"), expected)


def test_a_folder_is_one_healthy_checkpoint(shared: Path, saves: Path) -> None:
    for folder in (shared / "fsdp", *(saves / name for name in STATES)):
        report = scan([folder])
        assert [each.path for each in report.checkpoints] == [str(folder)]
        assert report.checkpoints[0].verdict is Verdict.HEALTHY, report.checkpoints[0].findings
    (examination,) = scan([shared / "fsdp"]).checkpoints
    assert [part.file for part in examination.parts] == ["__0_0.distcp", "__1_0.distcp", ".metadata"]


def test_the_metadata_can_be_named_itself(shared: Path) -> None:
    assert len(open_checkpoint(shared / "fsdp" / ".metadata").tensors) == 11


def test_ranks_that_wrote_their_own_metadata_are_put_together(shared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared / "fsdp", tmp_path / "ranks"))
    metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    (folder / ".metadata").unlink()
    for rank in (0, 1):
        own: Metadata = pickle.loads(pickle.dumps(metadata))
        own.storage_data = {
            index: info for index, info in own.storage_data.items() if info.relative_path == f"__{rank}_0.distcp"
        }
        held = {(index.fqn, index.offset) for index in own.storage_data}
        for key, entry in list(own.state_dict_metadata.items()):
            if hasattr(entry, "chunks"):
                entry.chunks = [chunk for chunk in entry.chunks if (key, chunk.offsets) in held]
            if not getattr(entry, "chunks", (key, None) in held):
                del own.state_dict_metadata[key]
        (folder / f"__{rank}.metadata").write_bytes(pickle.dumps(own))
    assert_equal(open_checkpoint(folder), load_with_torch(shared / "fsdp", tmp_path / "whole.pt")["model"])


def test_a_save_without_metadata_is_incomplete(broken: Path) -> None:
    (broken / ".metadata").rename(broken / ".metadata.tmp")
    with pytest.raises(UnreadableCheckpoint, match=r"incomplete save: it has 2 .distcp files, but no .metadata"):
        open_checkpoint(broken)
    assert scan([broken]).checkpoints[0].verdict is Verdict.UNREADABLE


def test_a_missing_file_is_named_with_what_is_lost(broken: Path) -> None:
    (broken / "__0_0.distcp").unlink()
    checkpoint = open_checkpoint(broken)
    (flaw,) = checkpoint.damage
    assert (flaw.member, flaw.message) == ("__0_0.distcp", "it is missing; its 24 pieces cannot be examined")
    assert {tensor.name for tensor in checkpoint.tensors} == {
        "4.running_mean",
        "4.running_var",
        "4.num_batches_tracked",
    }
    skipped = {each.what: each.why for each in checkpoint.skipped}
    assert skipped["0.weight"] == "__0_0.distcp is missing"
    # Half of the moments would look like another optimizer's.
    assert checkpoint.optimizers == ()
    assert "the optimizer optim" in skipped
    assert scan([broken]).checkpoints[0].verdict is Verdict.ILL


def test_a_truncated_file_is_named_with_its_sizes(broken: Path) -> None:
    path = broken / "__1_0.distcp"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 100])
    (flaw,) = open_checkpoint(broken).damage
    assert (flaw.member, flaw.expected, flaw.found) == ("__1_0.distcp", size, size - 100)
    assert flaw.message == "it is truncated; 1 of its 48 pieces cannot be examined"


def test_nothing_readable_is_an_error(broken: Path) -> None:
    for path in broken.glob("*.distcp"):
        path.unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"nothing of .* can be read: __0_0.distcp: it is missing"):
        open_checkpoint(broken)


def test_a_wrong_length_is_said_of_its_tensor(broken: Path) -> None:
    def shorten(metadata: Metadata) -> None:
        info = next(info for index, info in metadata.storage_data.items() if index.fqn == "model.0.weight")
        info.length -= 40

    edit(broken, shorten)
    (skipped,) = [each for each in open_checkpoint(broken).skipped if each.what == "0.weight"]
    assert "__0_0.distcp, byte 0" in skipped.why


def test_chunks_that_do_not_cover_their_tensor_are_said(broken: Path) -> None:
    def lose_a_chunk(metadata: Metadata) -> None:
        metadata.state_dict_metadata["model.0.weight"].chunks.pop()

    edit(broken, lose_a_chunk)
    (skipped,) = open_checkpoint(broken).skipped
    assert (skipped.what, skipped.why) == ("0.weight", "it is incomplete: its chunks cover 136 of 264 values")


def test_a_piece_with_another_tensor_is_said(broken: Path) -> None:
    def swap(metadata: Metadata) -> None:
        data = metadata.storage_data
        first, second = (
            next(index for index in data if index.fqn == name) for name in ("model.0.weight", "model.0.bias")
        )
        data[first], data[second] = data[second], data[first]

    edit(broken, swap)
    why = {each.what: each.why for each in open_checkpoint(broken).skipped}
    assert why["0.weight"].endswith("contains a tensor of shape [17], but [17, 8] is expected")


def test_a_changed_byte_is_noticed(broken: Path) -> None:
    path = broken / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\3\4", content.index(b"data/0") - 60)
    at = content.index(b"FB", content.index(b"data/0", at))  # the padding in front of the values
    at += 200
    content[at] ^= 1
    path.write_bytes(bytes(content))
    assert any("CRC-32" in flaw.message for flaw in open_checkpoint(broken).damage)


def test_a_file_of_another_save_is_mentioned(broken: Path) -> None:
    shutil.copy(broken / "__1_0.distcp", broken / "__2_0.distcp")
    checkpoint = open_checkpoint(broken)
    assert [(each.what, "another save" in each.why) for each in checkpoint.skipped] == [("__2_0.distcp", True)]


def test_compressed_pieces_are_skipped_with_their_reason(broken: Path) -> None:
    def compress(metadata: Metadata) -> None:
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["stream.zstd/1"]

    edit(broken, compress)
    with pytest.raises(UnreadableCheckpoint) as caught:
        open_checkpoint(broken)
    assert "stream.zstd/1" in caught.value.message


def test_repairs_are_refused(shared: Path) -> None:
    checkpoint = open_checkpoint(shared / "fsdp")
    with pytest.raises(RepairFailed, match="spread over the files"):
        loader.patch(checkpoint, {checkpoint.tensors[0]: checkpoint.tensors[0].array})


def test_sharded_tensors_are_put_together(shared: Path, tmp_path: Path) -> None:
    expected = load_with_torch(shared / "placements", tmp_path / "whole.pt")
    found = open_checkpoint(shared / "sharded").by_name["rows.weight"]
    np.testing.assert_array_equal(found.array, expected["rows.weight"].numpy())


def test_a_tensor_of_one_process_is_read_from_its_own_file(tmp_path: Path) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    weight, bias = torch.randn(5, 4), torch.randn(5)
    with one_process_group() as mesh:
        state = {
            "0.weight": distribute_tensor(weight, mesh, [Shard(0)]),
            "0.bias": torch.nn.Parameter(distribute_tensor(bias, mesh, [Replicate()])),
            "1.weight": sharded(weight, slice(0, 5), 0),
        }
        torch.save(state, tmp_path / "state.pt")
    checkpoint = open_checkpoint(tmp_path / "state.pt")
    assert_equal(checkpoint, {"0.weight": weight, "0.bias": bias, "1.weight": weight})
    assert [name.qualified for name in checkpoint.pickled_names if not name.known] == []
    changed = np.zeros((5, 4), np.float32)
    assert TorchLoader().patch(checkpoint, {checkpoint.by_name["0.weight"]: changed})
    assert TorchLoader().patch(checkpoint, {checkpoint.by_name["1.weight"]: changed})


@pytest.mark.parametrize(
    ("file", "name", "part"),
    [
        ("rank0.pt", "0.weight", "the file has [17, 8] of its shape [33, 8]"),
        ("rank1.pt", "0.weight", "the file has [16, 8] of its shape [33, 8]"),
        ("placements1.pt", "columns.weight", "the file has [6, 5] of its shape [6, 11]"),
        ("sharded0.pt", "rows.weight", "its chunks cover 35 of 63 values"),
    ],
)
def test_the_part_of_one_process_is_called_a_part(shared: Path, file: str, name: str, part: str) -> None:
    checkpoint = open_checkpoint(shared / file)
    skipped = {each.what: each.why for each in checkpoint.skipped}
    assert skipped[name] == f"it is shared by several processes, and this file has the part of one of them: {part}"
    assert [name.qualified for name in checkpoint.pickled_names if not name.known] == []


def test_the_safetensors_files_of_all_ranks_are_put_together(shared: Path, tmp_path: Path) -> None:
    whole = load_with_torch(shared / "placements", tmp_path / "whole.pt")
    names = ("rows.weight", "columns.weight", "columns_half.weight", "middle.weight")
    assert_equal(open_checkpoint(shared / "safetensors"), {name: whole[name] for name in names})
    (examination,) = scan([shared / "safetensors"]).checkpoints
    assert len(examination.parts) == 2


def test_a_missing_safetensors_file_of_a_rank_is_said(shared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared / "safetensors", tmp_path / "copy"))
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(UnreadableCheckpoint, match="incomplete save: the files of shard 00001 are missing"):
        open_checkpoint(folder)


def test_a_safetensors_file_without_offsets_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared / "safetensors", tmp_path / "copy"))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"DCP_SHARDING_INFO", b"DCP_SHARDING_XXXX"))
    with pytest.raises(UnreadableCheckpoint, match="has no readable DCP_SHARDING_INFO"):
        open_checkpoint(folder)


def test_a_file_of_pieces_is_named_for_what_it_is(shared: Path) -> None:
    with pytest.raises(NotACheckpoint, match="is one of the files of a distributed checkpoint"):
        open_checkpoint(shared / "fsdp" / "__0_0.distcp")


def test_metadata_of_two_saves_is_not_mixed(saves: Path, tmp_path: Path) -> None:
    save({"0.weight": torch.ones(2)}, tmp_path / "other")
    shutil.copy(tmp_path / "other" / ".metadata", tmp_path / "__0.metadata")
    shutil.copy(saves / "bare" / ".metadata", tmp_path / "__1.metadata")
    with pytest.raises(
        UnreadableCheckpoint, match=r"__1.metadata does not belong .* disagree on the shape of 0.weight"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("form", ["by name", "by position"])
def test_a_tied_tensor_is_one_tensor_and_a_copy_is_not(tmp_path: Path, form: str) -> None:
    checkpoint = open_checkpoint(save(make_tied_states()[form], tmp_path / "tied"))
    assert checkpoint.aliases == {"head.weight": "embedding.weight"}
    assert checkpoint.updates_of("head.weight") == 3
    assert checkpoint.updates_of("target_body.weight") is None
    (examination,) = scan([tmp_path / "tied"]).checkpoints
    assert "head.weight" not in {finding.tensor for finding in examination.findings}


def test_an_object_that_was_not_flattened_is_read(tmp_path: Path) -> None:
    state = make_states()["by name"]
    save(state, tmp_path / "save", planner=DefaultSavePlanner(flatten_state_dict=False))
    checkpoint = open_checkpoint(tmp_path / "save")
    assert_equal(checkpoint, state["model"])
    assert [moments.step for moments in checkpoint.optimizers[0].parameters] == [3] * 8


@pytest.mark.parametrize("layout", ["optim.state.{name}.{entry}", "optimizer.state.{entry}.{name}"])
def test_an_optimizer_in_flat_keys_is_told_from_the_model(tmp_path: Path, layout: str) -> None:
    state = make_states()["by name"]
    flat = dict(state["model"])
    for name, moments in state["optim"]["state"].items():
        flat |= {layout.format(name=name, entry=entry): tensor for entry, tensor in moments.items()}
    checkpoint = open_checkpoint(save(flat, tmp_path / "save", planner=DefaultSavePlanner(flatten_state_dict=False)))
    assert_equal(checkpoint, state["model"])
    (optimizer,) = checkpoint.optimizers
    assert {moments.tensor for moments in optimizer.parameters} == set(state["optim"]["state"])


def test_an_optimizer_without_state_is_one(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    folder = save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "save")
    (found,) = open_checkpoint(folder).optimizers
    assert (found.kind, [moments.tensor for moments in found.parameters]) == ("SGD", ["weight", "bias"])


def test_layers_with_the_names_of_an_optimizer_stay_in_the_model(tmp_path: Path) -> None:
    model = {
        "encoder.state.gate.step": torch.ones(3),
        "state.sum.weight": torch.ones(2, 2),
        "state.prev": torch.ones(2),
    }
    assert_equal(open_checkpoint(save({"model": model}, tmp_path / "save")), model)


def test_the_folders_of_accelerate_are_one_checkpoint(tmp_path: Path) -> None:
    state = make_states()["by name"]
    save({"model": state["model"]}, tmp_path / "run" / "pytorch_model_fsdp_0")
    save({"optimizer": state["optim"]}, tmp_path / "run" / "optimizer_0")
    torch.save({"last_epoch": 3, "_step_count": 4, "base_lrs": [0.001]}, tmp_path / "run" / "scheduler.bin")
    (examination,) = scan([tmp_path]).checkpoints
    assert (examination.path, examination.verdict) == (str(tmp_path / "run"), Verdict.HEALTHY)
    checkpoint = open_checkpoint(tmp_path / "run")
    assert_equal(checkpoint, state["model"])
    assert {moments.tensor for moments in checkpoint.optimizers[0].parameters} == set(state["optim"]["state"])
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {part.file for part in checkpoint.files} == files
    assert not scan([tmp_path]).passed_over
    (tmp_path / "run" / "optimizer_0" / ".metadata").unlink()
    damaged = open_checkpoint(tmp_path / "run")
    assert_equal(damaged, state["model"])
    assert [(flaw.member, "incomplete save" in flaw.message) for flaw in damaged.flaws] == [("optimizer_0", True)]


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / ".metadata").write_text("some other program's")
    assert not loader.claim_folder(Folder.read(tmp_path))
