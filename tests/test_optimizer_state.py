"""Optimizers in torch files: kinds, groups, steps, and never a wrong name."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import opened, saved

from checkpoint_doctor.builtin.analyzers.optimizer.optimizer import untrained_tensor
from checkpoint_doctor.builtin.loaders._optimizers.state import read_optimizer
from checkpoint_doctor.checkpoint import Optimizer
from checkpoint_doctor.testing import findings_of

torch = pytest.importorskip("torch")
nn = torch.nn

KINDS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters),
    "AMSGrad": lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters),
    "RAdam": lambda parameters: torch.optim.RAdam(parameters),
    "Adamax": lambda parameters: torch.optim.Adamax(parameters),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters),
    "Adadelta": lambda parameters: torch.optim.Adadelta(parameters),
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "Rprop": lambda parameters: torch.optim.Rprop(parameters),
    "ASGD": lambda parameters: torch.optim.ASGD(parameters),
    "Adafactor": lambda parameters: torch.optim.Adafactor(parameters),
}


def network(*sizes: int) -> nn.Sequential:
    layers = itertools.chain(*((nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)))
    return nn.Sequential(*list(layers)[:-1])


def train(optimizer: Any, updates: int = 3, without: tuple[Any, ...] = ()) -> Any:
    for _ in range(updates):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                skipped = any(parameter is other for other in without)
                parameter.grad = None if skipped else torch.ones_like(parameter)
        optimizer.step()
    return optimizer


def optimizer_in(content: dict[str, Any]) -> Optimizer:
    [found] = opened(saved(content)).optimizers
    return found


def names(optimizer: Optimizer) -> list[str | None]:
    return [moments.tensor for moments in optimizer.parameters]


def name_of(model: nn.Module, parameter: Any, prefix: str = "") -> str:
    return prefix + next(name for name, other in model.named_parameters() if other is parameter)


def true_names(model: nn.Module, optimizer: Any, prefix: str = "") -> list[str]:
    return [name_of(model, each, prefix) for group in optimizer.param_groups for each in group["params"]]


def assert_no_wrong_name(found: Optimizer, truth: list[str]) -> None:
    assert len(found.parameters) == len(truth)
    for name, true in zip(names(found), truth, strict=True):
        assert name in (None, true)
    assert bool(found.unmatched) == (None in names(found))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_with_its_state_steps_and_options(kind: str) -> None:
    model = network(4, 8, 2)
    optimizer = train(KINDS[kind](model.parameters()))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert found.name == "optimizer"
    assert found.kind == kind
    assert names(found) == list(model.state_dict())
    assert not found.unmatched
    assert not found.mismatch
    assert found.has_state
    assert found.groups[0].options["lr"] == optimizer.param_groups[0]["lr"]
    assert found.groups[0].indices == (0, 1, 2, 3)
    for moments, parameter in zip(found.parameters, model.parameters(), strict=True):
        state = optimizer.state[parameter]
        assert moments.step == (3 if "step" in state else None)
        for key, value in state.items():
            if torch.is_tensor(value) and key != "step":
                np.testing.assert_array_equal(moments.state[key].array, value.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_shows_before_the_first_update(kind: str) -> None:
    model = network(4, 2)
    found = optimizer_in({"model": model.state_dict(), "optimizer": KINDS[kind](model.parameters()).state_dict()})
    assert found.kind == kind
    # Adagrad makes its sums at once; they are no evidence of an update.
    assert not found.has_state
    assert names(found) == list(model.state_dict())


def test_plain_sgd_has_no_state_and_still_its_names() -> None:
    model = network(4, 2)
    optimizer = train(torch.optim.SGD(model.parameters(), 0.1))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert found.kind == "SGD"
    assert names(found) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optim", "opt_state", "optimizer_state"])
def test_it_is_found_under_every_usual_key(key: str) -> None:
    model = network(4, 2)
    found = optimizer_in({"net": model.state_dict(), key: train(torch.optim.Adam(model.parameters())).state_dict()})
    assert found.name == key
    assert found.parameters[0].step == 3


def test_lightning_keeps_several_in_a_list() -> None:
    model = nn.ModuleDict({"actor": network(4, 8, 2), "critic": network(4, 8, 1)})
    optimizers = [train(torch.optim.Adam(part.parameters())) for part in model.values()]
    content = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
        "lr_schedulers": [{"last_epoch": 3}],
    }
    found = opened(saved(content)).optimizers
    assert [each.name for each in found] == ["optimizer_states/0", "optimizer_states/1"]
    for each, optimizer in zip(found, optimizers, strict=True):
        assert_no_wrong_name(each, true_names(model, optimizer))
        assert not each.mismatch
    # The output layers have shapes of their own.
    assert names(found[0])[-2:] == ["actor.2.weight", "actor.2.bias"]
    assert names(found[1])[-2:] == ["critic.2.weight", "critic.2.bias"]


def test_steps_of_old_files_are_plain_integers_and_keys_may_be_addresses() -> None:
    state = {
        "state": {
            140_000_000_000_001: {"step": 7, "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)},
            140_000_000_000_009: {"step": 7, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)},
        },
        "param_groups": [{"params": [140_000_000_000_001, 140_000_000_000_009], "lr": 0.1, "betas": (0.9, 0.999)}],
    }
    found = optimizer_in({"model": {"w": torch.ones(2, 3), "b": torch.ones(2)}, "optimizer": state})
    assert [moments.step for moments in found.parameters] == [7, 7]
    assert names(found) == ["w", "b"]
    assert found.groups[0].options["betas"] == (0.9, 0.999)


def test_buffers_and_tied_weights_are_not_parameters() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "norm": nn.BatchNorm1d(4), "head": nn.Linear(4, 5)})
    model["head"].weight = model["embedding"].weight
    optimizer = train(torch.optim.Adam(model.parameters()))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == ["embedding.weight", "norm.weight", "norm.bias", "head.bias"]


def test_stored_parameter_names_are_used() -> None:
    model = network(4, 4, 4)
    optimizer = train(torch.optim.Adam(reversed(list(model.named_parameters()))))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == ["2.bias", "2.weight", "0.bias", "0.weight"]
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    found = optimizer_in({"model": wrapped, "optimizer": optimizer.state_dict()})
    assert names(found)[0] == "module.2.bias"


def test_a_stored_name_with_another_shape_is_a_mismatch() -> None:
    model = network(4, 4)
    optimizer = train(torch.optim.Adam(model.named_parameters()))
    other = {"0.weight": torch.ones(3, 4), "0.bias": torch.ones(4)}
    found = optimizer_in({"model": other, "optimizer": optimizer.state_dict()})
    assert names(found) == [None, "0.bias"]
    assert "0.weight" in found.mismatch


def test_a_smaller_state_may_be_of_low_rank_and_is_no_mismatch() -> None:
    model = network(4, 8, 2)
    optimizer = train(torch.optim.Adam(model.parameters()))
    state = optimizer.state_dict()
    for index, parameter in enumerate(model.parameters()):
        if parameter.ndim > 1:
            for key in ("exp_avg", "exp_avg_sq"):
                state["state"][index][key] = torch.ones(2, parameter.shape[1])[: parameter.shape[0] - 1]
    found = optimizer_in({"model": model.state_dict(), "optimizer": state})
    assert names(found) == [None] * 4
    assert "state 0 has shape [2, 4], but 0.weight has [8, 4]" in found.unmatched
    assert not found.mismatch


def test_parameters_of_the_loss_come_after_those_of_the_model() -> None:
    model, centers = network(4, 8, 2), torch.nn.Parameter(torch.ones(3, 2))
    (model(torch.ones(1, 4)).sum() * centers.sum()).backward()
    optimizer = torch.optim.Adam([*model.parameters(), centers])
    optimizer.step()
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == [*model.state_dict(), None]
    assert "it holds 5 parameters, but the model has 4: the rest is not in this file" in found.unmatched
    assert not found.mismatch


def test_groups_for_matrices_and_vectors_name_parameters_without_state() -> None:
    model = network(4, 8, 8, 2)
    matrices = [each for each in model.parameters() if each.ndim > 1]
    vectors = [each for each in model.parameters() if each.ndim == 1]
    optimizer = train(torch.optim.AdamW([{"params": matrices}, {"params": vectors}]), without=(matrices[1], vectors[1]))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    layers = [name.partition(".")[0] for name in model.state_dict() if name.endswith("weight")]
    assert names(found) == [f"{layer}.weight" for layer in layers] + [f"{layer}.bias" for layer in layers]


def test_order_within_groups_tells_tensors_of_one_shape_apart() -> None:
    model = network(4, 8, 8, 2)
    parameters = list(model.parameters())
    body = optimizer_in(
        {"model": model.state_dict(), "optimizer": train(torch.optim.Adam(parameters[:4])).state_dict()}
    )
    assert names(body) == list(model.state_dict())[:4]
    split = torch.optim.Adam([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:]}])
    assert names(optimizer_in({"model": model.state_dict(), "optimizer": train(split).state_dict()})) == list(
        model.state_dict()
    )


def test_groups_by_number_of_axes_are_matched() -> None:
    model = network(4, 8, 8, 2)
    groups = [
        {"params": [each for each in model.parameters() if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in model.parameters() if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = train(torch.optim.AdamW(groups))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == true_names(model, optimizer)
    assert [group.indices for group in found.groups] == [(0, 1, 2), (3, 4, 5)]
    assert [group.options["weight_decay"] for group in found.groups] == [0.1, 0.0]


def test_equal_shapes_in_two_groups_are_not_guessed() -> None:
    model = network(4, 4, 4)
    optimizer = train(torch.optim.Adam([{"params": model[2].parameters()}, {"params": model[0].parameters()}]))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == [None] * 4
    assert "several tensors have the same shape" in found.unmatched
    assert not found.mismatch


def test_a_frozen_part_leaves_only_certain_names() -> None:
    model = network(4, 8, 8, 8, 2)
    trained = [*model[4].parameters(), *model[6].parameters()]
    optimizer = train(torch.optim.Adam(trained))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    # One of the two hidden (8, 8) layers is frozen; the head's shapes are its own.
    assert names(found) == [None, None, "6.weight", "6.bias"]
    assert "2 of its 4" in found.unmatched
    assert not found.mismatch


def test_another_order_is_recognised_where_shapes_tell_and_never_guessed() -> None:
    model = network(4, 8, 2)
    optimizer = train(torch.optim.Adam([*model[2].parameters(), *model[0].parameters()]))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == ["2.weight", "2.bias", "0.weight", "0.bias"]


def test_parameters_without_state_keep_their_place_in_a_full_list() -> None:
    model = network(4, 8, 2)
    optimizer = train(torch.optim.Adam(model.parameters()), without=(model[0].weight,))
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == list(model.state_dict())
    assert found.parameters[0].step is None
    assert not found.parameters[0].state


def test_an_optimizer_of_another_model_is_a_mismatch_with_the_first_place() -> None:
    optimizer = train(torch.optim.Adam(network(4, 8, 2).parameters()))
    found = optimizer_in({"model": network(4, 9, 2).state_dict(), "optimizer": optimizer.state_dict()})
    assert names(found) == [None] * 4
    assert "state 0 has shape [8, 4], but 0.weight has [9, 4]" in found.mismatch
    more = optimizer_in({"model": network(4, 8).state_dict(), "optimizer": optimizer.state_dict()})
    assert "holds 4 parameters, but the model has 2" in more.mismatch


def test_switches_kept_as_parameters_take_their_places() -> None:
    class Quantized(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.output_shift = nn.Parameter(torch.zeros(1), requires_grad=False)
            self.weight_bits = nn.Parameter(torch.tensor([8]), requires_grad=False)
            self.quantize = nn.Parameter(torch.tensor([True]), requires_grad=False)
            self.op = nn.Linear(width, width)

    model = nn.Sequential(Quantized(4), Quantized(4))
    fixed = tuple(each for each in model.parameters() if not each.requires_grad)
    optimizer = train(torch.optim.Adam(model.parameters()), updates=20, without=fixed)
    checkpoint = opened(saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    [found] = checkpoint.optimizers
    assert names(found) == true_names(model, optimizer)
    assert findings_of(untrained_tensor, checkpoint) == []


def test_each_of_several_models_finds_its_optimizer() -> None:
    actor, critic = network(4, 8, 2), network(4, 8, 2)
    content = {
        "actor": actor.state_dict(),
        "critic": critic.state_dict(),
        "critic_target": critic.state_dict(),
        "critic_optimizer": train(torch.optim.Adam(critic.parameters())).state_dict(),
        "actor_optimizer": train(torch.optim.Adam(actor.parameters())).state_dict(),
        "optimizer": train(torch.optim.Adam(actor.parameters())).state_dict(),
    }
    by_name = {each.name: each for each in opened(saved(content)).optimizers}
    assert names(by_name["critic_optimizer"])[0] == "critic/0.weight"
    assert names(by_name["actor_optimizer"])[0] == "actor/0.weight"
    # Actor and critic have the same shapes, and this one's name says nothing.
    assert names(by_name["optimizer"]) == [None] * 4
    assert "several state dicts" in by_name["optimizer"].unmatched
    assert not by_name["optimizer"].mismatch


def test_the_optimizer_of_a_model_that_was_not_saved_contradicts_nothing() -> None:
    optimizer = train(torch.optim.Adam(network(4, 9, 3).parameters()))
    content = {"generator": network(4, 8, 2).state_dict(), "discriminator_optimizer": optimizer.state_dict()}
    found = optimizer_in(content)
    assert names(found) == [None] * 4
    assert found.unmatched
    assert not found.mismatch


def test_state_kept_by_names_is_read() -> None:
    model = network(4, 8, 2)
    state = train(torch.optim.Adam(model.parameters())).state_dict()
    keys = list(model.state_dict())
    named = {
        "state": {keys[index]: held for index, held in state["state"].items()},
        "param_groups": [{**state["param_groups"][0], "params": keys[::-1]}],
    }
    found = optimizer_in({"model": model.state_dict(), "optimizer": named})
    assert names(found) == keys[::-1]
    assert found.parameters[0].state["exp_avg"].shape == (2,)


def test_one_optimizer_over_several_models_is_matched() -> None:
    actor, critic = network(4, 8, 2), network(4, 16, 1)
    optimizer = train(torch.optim.Adam([*actor.parameters(), *critic.parameters()]))
    content = {"actor": actor.state_dict(), "critic": critic.state_dict(), "optimizer": optimizer.state_dict()}
    found = optimizer_in(content)
    assert names(found)[0] == "actor/0.weight"
    assert names(found)[-1] == "critic/2.bias"


def test_copies_of_the_model_do_not_confuse() -> None:
    model = network(4, 8, 2)
    optimizer = train(torch.optim.Adam(model.parameters())).state_dict()
    found = optimizer_in({"model": model.state_dict(), "ema": model.state_dict(), "optimizer": optimizer})
    assert names(found) == [f"model/{name}" for name in model.state_dict()]
    twins = nn.ModuleDict({"q_net": model, "q_net_target": network(4, 8, 2)})
    found = optimizer_in({"model": twins.state_dict(), "optimizer": optimizer})
    assert names(found) == [f"q_net.{name}" for name in model.state_dict()]


def test_a_known_list_of_parameters_is_taken_as_it_is_or_refused_whole() -> None:
    model = network(4, 8, 2)
    state = train(torch.optim.Adam(model.parameters())).state_dict()
    checkpoint = opened(saved({"model": model.state_dict(), "optimizer": state}))
    from checkpoint_doctor.builtin.loaders.torch.archive import read_archive
    from checkpoint_doctor.sources import MemorySource

    archive = read_archive(MemorySource("policy.optimizer.pth", saved(state)), "policy.optimizer.pth")
    root, budget = archive.root, archive.budget
    found = read_optimizer("policy.optimizer", root, checkpoint.tensors, budget)
    assert names(found) == [tensor.name for tensor in checkpoint.tensors]
    assert found.parameters[0].state["exp_avg"].storage.startswith("policy.optimizer.pth:data/")
    shifted = read_optimizer("policy.optimizer", root, checkpoint.tensors[1:], budget)
    assert names(shifted) == [None] * 4
    assert "4 parameters, but 3" in shifted.mismatch
    assert names(read_optimizer("policy.optimizer", root, None, budget)) == [None] * 4


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_frozen_grouped_and_untouched_no_name_is_wrong(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([2, 3, 4]), min_size=2, max_size=5))
    model = network(*sizes)
    everything = list(model.parameters())
    kept = [each for each in everything if data.draw(st.booleans())] or everything[-1:]
    cut = data.draw(st.integers(0, len(kept)))
    is_second = [data.draw(st.booleans()) for _ in kept] if cut % 2 else [index >= cut for index in range(len(kept))]
    parts = [[each for each, second in zip(kept, is_second, strict=True) if second is want] for want in (False, True)]
    groups = [{"params": part} for part in parts if part]
    if data.draw(st.booleans()):
        groups.reverse()
    idle = tuple(each for each in kept if data.draw(st.integers(0, 4)) == 0)
    optimizer = train(torch.optim.Adam(groups), 1, without=idle)
    found = optimizer_in({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert_no_wrong_name(found, true_names(model, optimizer))
    assert not found.mismatch
