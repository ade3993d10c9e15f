"""Pickles that hold no model are named for what they hold, and passed over where a search meets them."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.errors import NotACheckpoint
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.report import Page, Verdict

ARRAY = np.full(5, 3e7, np.float32)


RANDOM = np.random.default_rng(0)
LAYERS = [RANDOM.normal(0, 0.3, shape) for shape in ((8, 16), 16, (16, 4), 4)]
"""What ``get_weights()`` of a Keras model with two dense layers returns."""

BRANCHING = [
    (8, 4, 3, 3), 8, (16, 8, 3, 3), 16, (4, 16, 1, 1), 4, (144, 36), 36, (2, 16, 1, 1), 2, (72, 64), 64, (64, 1), 1,
]  # fmt: skip
"""Convolutions with two heads, as lists of a network's weights have them."""


def object_of(module: str, name: str) -> bytes:
    """Return the pickle of an object of a class that is not installed, with an array of large values in it."""
    array = pickle.dumps(ARRAY, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")\x81}X\x09\x00\x00\x00data_max_" + array + b"sb."


def joblib_file(before: bytes = b"", home: bytes = b"", array: bytes = b"\x02\xff\xff" + ARRAY.tobytes()) -> bytes:
    """Return what ``joblib.dump`` writes of a scaler: an array's bytes lie inside the pickle, behind its wrapper.

    An array of objects is a pickle of its own there.
    """
    wrapper = b"c" + home + b"joblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}X\x05\x00\x00\x00shapeK\x05\x85sb"
    head = b"\x80\x02" + before + b"csklearn.preprocessing._data\nMinMaxScaler\n)\x81}X\x09\x00\x00\x00data_max_"
    return head + wrapper + array + b"sb."


def optimizer() -> torch.optim.Adam:
    model = torch.nn.Linear(8, 4)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    adam.step()
    return adam


def saved(value: Any, path: Path) -> None:
    path.write_bytes(value) if isinstance(value, bytes) else torch.save(value, path)


NO_MODEL = {
    "scikit-learn": (object_of("sklearn.preprocessing._data", "MinMaxScaler"), "is a pickle of scikit-learn objects"),
    "joblib": (joblib_file(), "is a joblib file"),
    "joblib of names": (joblib_file(array=pickle.dumps(["Water", "Fire"], 2)), "is a joblib file"),
    "joblib of scikit-learn": (joblib_file(home=b"sklearn.externals."), "is a joblib file"),
    "NetworkX": (object_of("networkx.classes.graph", "Graph"), "is a pickle of NetworkX graphs"),
    "pandas": (object_of("pandas.core.frame", "DataFrame"), "is a pickle of pandas tables"),
    "history": (pickle.dumps({"losses": [0.5, 0.25]}), "contains no tensors: a dictionary with losses"),
    "scheduler": ({"step_size": 5, "last_epoch": 3}, "contains no tensors: a dictionary with step_size, last_epoch"),
    "expert": (pickle.dumps({"obs": ARRAY, "acts": ARRAY, "dones": ARRAY > 0}), "is recorded data (obs, acts, dones…)"),
    "episodes": (pickle.dumps([{"observations": ARRAY, "rewards": ARRAY}] * 2), "is recorded data (0/observations"),
    "memory": (pickle.dumps([{"state": ARRAY, "action": 1, "reward": 0.5}] * 3), "is recorded data (0/state, 1/state"),
    "split": (pickle.dumps({"train": ARRAY, "test": ARRAY}), "is recorded data (train, test…)"),
    "array": (pickle.dumps(ARRAY), "is data: arrays whose names"),
    "inputs and labels": (pickle.dumps([np.ones((5, 3)), np.ones(5)]), "is data: arrays whose names"),
    "splits": (pickle.dumps([np.ones(each) for each in ((160, 8), 160, (40, 8), 40)]), "is data: arrays whose names"),
    "episodes by name": (pickle.dumps({"ep0": np.ones((5, 3)), "ep1": np.ones((5, 3))}), "(ep0, ep1) are those of no"),
    "images": ((torch.ones(9, 4, 4, dtype=torch.uint8), torch.arange(9)), "is data: arrays whose names (0, 1)"),
    "generator": (pickle.dumps(np.random.default_rng(0)), "is data: arrays whose names"),
    "data set": ({"x_train": torch.ones(9, 3), "y_train": torch.ones(9)}, "is recorded data (x_train, y_train…)"),
    "random states": (
        {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()},
        "is the state of random generators",
    ),
}


@pytest.mark.parametrize("kind", NO_MODEL)
def test_a_file_without_a_model_is_named_and_passed_over_by_a_search(kind: str, tmp_path: Path) -> None:
    value, words = NO_MODEL[kind]
    saved(value, tmp_path / "other.pt")
    (named,) = scan([tmp_path / "other.pt"]).checkpoints
    assert named.verdict is Verdict.UNREADABLE
    assert words in (named.error or "")
    torch.save(torch.nn.Linear(8, 4).state_dict(), tmp_path / "model.pt")
    (found,) = scan([tmp_path]).checkpoints
    assert (Path(found.path).name, found.verdict) == ("model.pt", Verdict.HEALTHY)


@pytest.mark.parametrize(
    "content",
    [joblib_file(b"cos\nsystem\nX\x04\x00\x00\x00true\x85R0"), object_of("os", "system"), b"\x80\x02cos\nsystem\n."],
)
def test_code_is_reported_also_where_there_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.pkl").write_bytes(content)
    (found,) = scan([tmp_path]).checkpoints
    assert found.verdict is Verdict.ILL
    assert "os.system" in " ".join(each.message for each in found.findings if each.code == "FIL002")


@pytest.mark.parametrize("whole", [False, True])
def test_an_optimizer_alone_is_examined_as_one(whole: bool, tmp_path: Path) -> None:
    adam = optimizer()
    torch.save(adam if whole else adam.state_dict(), tmp_path / "optimizer.pt")
    for uri in (tmp_path, tmp_path / "optimizer.pt"):
        report = scan([uri])
        (found,) = report.checkpoints
        assert (found.verdict, found.tensors) == (Verdict.HEALTHY, ())
        assert found.content == "is the state of an optimizer (Adam, 2 parameters) without its model"
        text = discover().reporters["terminal"].render(report, (), Page(width=400))
        assert "PyTorch, the state of an optimizer (Adam, 2 parameters) without its model" in text


def test_large_statistics_are_no_weights_that_exploded(tmp_path: Path) -> None:
    """``ARRAY`` has values that no weight has."""
    content = object_of("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
    (tmp_path / "vecnormalize.pkl").write_bytes(content)
    torch.save(torch.nn.Linear(8, 4).state_dict(), tmp_path / "model.pt")
    report = scan([tmp_path])
    assert [Path(each.path).name for each in report.checkpoints] == ["model.pt"]
    assert report.passed_over[0].why == "is the statistics of an environment (VecNormalize)"


def test_broken_moments_of_an_optimizer_alone_are_reported(tmp_path: Path) -> None:
    state = optimizer().state_dict()
    state["state"][0]["exp_avg"][0, 0] = float("nan")
    torch.save(state, tmp_path / "optimizer.pt")
    (found,) = scan([tmp_path]).checkpoints
    assert found.verdict is Verdict.ILL


@pytest.mark.parametrize(
    "value",
    [
        {"mask_head.weight": torch.randn(4, 8), "mask_head.bias": torch.randn(4)},
        {"x": torch.nn.Linear(8, 4).state_dict()},
        pickle.dumps({"fc1_w": LAYERS[0], "fc1_b": LAYERS[1]}),
        pickle.dumps({"layer_1/kernel:0": LAYERS[0]}),
        pickle.dumps({"Wxh": LAYERS[0], "bh": LAYERS[1]}),
        pickle.dumps({"policy": {"hidden": LAYERS[0]}}),
        pickle.dumps(LAYERS),
        pickle.dumps([LAYERS[0].T, LAYERS[1], LAYERS[2].T, LAYERS[3]]),
        pickle.dumps([RANDOM.normal(0, 0.1, shape) for shape in BRANCHING]),
        {"actions": torch.randn(4, 8), "fc.weight": torch.randn(4, 8)},
        {"model": torch.nn.Linear(8, 4).state_dict(), "scaler": {"obs": torch.ones(3)}},
    ],
)
def test_a_model_stays_a_model_whatever_its_keys_resemble(value: Any, tmp_path: Path) -> None:
    saved(value, tmp_path / "model.pt")
    (found,) = scan([tmp_path]).checkpoints
    assert found.tensors


def test_a_damaged_pickle_is_no_joblib_file(tmp_path: Path) -> None:
    content = object_of("sklearn.preprocessing._data", "MinMaxScaler")
    (tmp_path / "other.pkl").write_bytes(content[:-8])
    (found,) = scan([tmp_path]).checkpoints
    assert found.verdict is Verdict.UNREADABLE
    assert os.path.basename(found.path) == "other.pkl"


def test_several_pickles_in_one_file_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "log.pkl"
    with path.open("wb") as file:
        for seed in (0, 1):
            pickle.dump({"weight": np.random.default_rng(seed).normal(size=(4, 3))}, file)
    opened = open_checkpoint(path)
    assert [tensor.shape for tensor in opened.tensors] == [(4, 3), (4, 3)]
    assert not opened.flaws
    with path.open("ab") as file:
        file.write(b"\x80\x04broken")
    (flaw,) = open_checkpoint(path).flaws
    assert "8 bytes follow the end of the pickle" in flaw.message


def test_a_log_of_pickles_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.pkl"
    path.write_bytes(pickle.dumps({"reward": 1.0}) * 1001)
    with pytest.raises(NotACheckpoint, match="is recorded data: more than 1,000 pickles"):
        open_checkpoint(path)
