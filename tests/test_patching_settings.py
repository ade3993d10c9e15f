"""A learning rate is one number in an optimizer's pickle, and is replaced like a tensor without axes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from patched_files import find_patches, patched
from torch_files import CONTAINERS, opened, saved

from checkpoint_doctor.builtin.loaders.torch.loader import loader
from checkpoint_doctor.checkpoint import Checkpoint, ParameterGroup, Tensor

torch = pytest.importorskip("torch")
nn = torch.nn


def trained(lr: object = -1e-4, **options: object) -> dict:
    """Return a checkpoint with two parameter groups, the first with the given learning rate."""
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "lr": lr}, {"params": [model.bias], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups, **options)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr": 0.5}


def groups(checkpoint: Checkpoint) -> tuple[ParameterGroup, ...]:
    (optimizer,) = checkpoint.optimizers
    return optimizer.groups


def zero_rate(checkpoint: Checkpoint) -> dict[Tensor, np.ndarray]:
    return {groups(checkpoint)[0].settings["lr"]: np.float64(0.0)}


WRITERS: dict[str, Callable[[dict], bytes]] = {
    **{
        name: (lambda state, is_zip=is_zip: saved(state, _use_new_zipfile_serialization=is_zip))
        for name, is_zip in CONTAINERS.items()
    },
    "protocol 1": lambda state: pickle.dumps(state, 1),
    "protocol 5": lambda state: pickle.dumps(state, 5),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_only_the_chosen_learning_rate_changes(writer: str) -> None:
    content = WRITERS[writer](trained())
    result = patched(loader, content, zero_rate)
    found = pickle.loads(result) if "protocol" in writer else torch.load(io.BytesIO(result), weights_only=True)
    assert [group["lr"] for group in found["optimizer"]["param_groups"]] == [0.0, 0.01]
    assert found["lr"] == 0.5
    patches = find_patches(loader, content, zero_rate)
    assert patches[0].new == bytes(8)
    assert patches[0].reason == "values of optimizer/param_groups/0/lr"
    assert all("CRC-32" in patch.reason for patch in patches[1:])


def test_the_settings_are_the_options_that_are_single_numbers() -> None:
    checkpoint = opened(saved(trained()))
    first, second = groups(checkpoint)
    assert {name: float(setting.array) for name, setting in first.settings.items()} == {"lr": -1e-4, "eps": 1e-8}
    assert float(second.settings["lr"].array) == 0.01
    assert first.settings["lr"].shape == ()
    assert type(first.options["lr"]) is float
    assert first.options["betas"] == (0.9, 0.999)


def test_a_learning_rate_that_is_a_tensor_is_replaced_too() -> None:
    content = saved(trained(lr=torch.tensor(-0.5), foreach=False))
    result = torch.load(io.BytesIO(patched(loader, content, zero_rate)), weights_only=True)
    assert result["optimizer"]["param_groups"][0]["lr"].item() == 0.0


@pytest.mark.parametrize("lr", [1, np.float64(-0.5)])
def test_numbers_that_take_another_form_offer_no_place(lr: object) -> None:
    content = saved(trained(lr=lr))
    assert "lr" not in groups(opened(content))[0].settings
    assert groups(opened(content))[0].options["lr"] == lr


def test_numbers_as_text_offer_no_place() -> None:
    assert not groups(opened(pickle.dumps(trained(), 0)))[0].settings
