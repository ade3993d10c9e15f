"""Where the model is in what training code saves."""

from __future__ import annotations

import io

import pytest
from torch_files import CONTAINERS, assert_equal, names, network, opened, saved

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "weights", "params", "module", "ema"]
)
def test_one_state_dict_keeps_its_bare_keys_whatever_wraps_it(key: str) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    content = saved(
        {
            "epoch": 3,
            key: model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng_state": torch.get_rng_state(),
            "loss": torch.tensor(0.3),
            "replay_buffer": {"observations": torch.zeros(5, 4)},
        }
    )
    assert_equal(opened(content), model.state_dict())


def test_several_state_dicts_carry_their_wrappers_names() -> None:
    generator, critic = network(), nn.Linear(2, 1)
    content = saved({"generator": generator.state_dict(), "nets": {"critic": critic.state_dict()}})
    expected = {f"generator/{name}": value for name, value in generator.state_dict().items()}
    expected |= {f"nets/critic/{name}": value for name, value in critic.state_dict().items()}
    assert_equal(opened(content), expected)


def test_lists_and_trees_of_tensors_are_found_at_any_depth() -> None:
    layers = [torch.ones(2), torch.zeros(3)]
    assert_equal(opened(saved(layers)), {"0": layers[0], "1": layers[1]})
    tree = {"params": {"dense": {"kernel": layers[0]}, "out": {"kernel": layers[1]}}}
    assert names(opened(saved(tree))) == ["params/dense/kernel", "params/out/kernel"]
    deep: object = {"weight": layers[0]}
    for _ in range(20):
        deep = {"wrapper": deep}
    assert names(opened(saved(deep))) == ["weight"]


def test_the_edge_types_of_a_graph_name_what_they_lead_to() -> None:
    """PyTorch Geometric keys what belongs to an edge by the types of its nodes and its own."""
    edges = {
        ("user", "rates", "item"): {"weight": torch.ones(2)},
        ("item", "rated_by", "user"): {"weight": torch.ones(3)},
    }
    assert names(opened(saved(edges))) == ["user,rates,item/weight", "item,rated_by,user/weight"]


def test_lone_tensors_beside_the_model_stay_under_their_own_key() -> None:
    content = saved({"actor": network().state_dict(), "log_alpha": torch.zeros(1), "best_score": torch.tensor(2.0)})
    found = names(opened(content))
    assert found == ["log_alpha", *network().state_dict()]


@pytest.mark.parametrize("container", CONTAINERS)
def test_whole_modules_are_read_like_their_state_dict(container: str) -> None:
    model = network()
    model.register_buffer("passing", torch.ones(2), persistent=False)
    model.register_buffer("lasting", torch.ones(2))
    model.plain = torch.ones(7)
    checkpoint = opened(saved(model, _use_new_zipfile_serialization=CONTAINERS[container]))
    assert_equal(checkpoint, model.state_dict())
    buffers = {tensor.name for tensor in checkpoint.tensors if tensor.is_buffer}
    assert buffers == {name for name, _ in model.named_buffers()} - {"passing"}
    unknown = {name.qualified for name in checkpoint.pickled_names if not name.known}
    assert "torch.nn.modules.linear.Linear" in unknown


def test_several_whole_modules_and_their_optimizer_are_told_apart() -> None:
    actor, critic = network(), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*critic.parameters(), *actor.parameters()])
    sum(parameter.sum() for parameter in [*actor.parameters(), *critic.parameters()]).backward()
    optimizer.step()
    checkpoint = opened(saved({"actor": actor, "critic": critic, "optimizer": optimizer}))
    expected = {f"actor/{name}": value for name, value in actor.state_dict().items()}
    expected |= {f"critic/{name}": value for name, value in critic.state_dict().items()}
    assert_equal(checkpoint, expected)
    [found] = checkpoint.optimizers
    assert found.kind == "Adam"
    assert [moments.tensor for moments in found.parameters][:3] == ["critic/weight", "critic/bias", "actor/0.weight"]


def test_settings_and_progress_stand_beside_the_tensors() -> None:
    content = saved(
        {
            "state_dict": network().state_dict(),
            "global_step": 120,
            "epoch": 2,
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters": {"learning_rate": 1e-3, "layers": [64, 64]},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.4)}},
        }
    )
    checkpoint = opened(content)
    assert checkpoint.step == 120
    assert checkpoint.versions["pytorch_lightning"] == "2.4.0"
    assert checkpoint.hyperparameters == {"learning_rate": 1e-3, "layers": [64, 64]}
    assert names(checkpoint) == list(network().state_dict())


def many_modules() -> dict[str, nn.Module]:
    from torch.nn.utils import prune

    torch.manual_seed(1)
    pruned = nn.Linear(4, 4)
    prune.l1_unstructured(pruned, "weight", 0.5)
    tied = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    tied["head"].weight = tied["embedding"].weight
    shared = nn.Linear(3, 3)
    return {
        "transformer": nn.Transformer(8, 2, 1, 1, 16),
        "attention": nn.MultiheadAttention(8, 2, kdim=6, vdim=6, add_bias_kv=True),
        "recurrent": nn.ModuleList([nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), nn.GRU(3, 4), nn.GRUCell(3, 4)]),
        "convolutions": nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose2d(3, 2, 3), nn.GroupNorm(1, 2)),
        "norms": nn.ModuleDict({"batch": nn.BatchNorm2d(3), "plain": nn.BatchNorm1d(3, affine=False)}),
        "weight_norm": torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        "spectral_norm": torch.nn.utils.spectral_norm(nn.Linear(3, 4)),
        "pruned": pruned,
        "tied": tied,
        "shared": nn.Sequential(shared, nn.ReLU(), shared),
        "parallel": nn.DataParallel(nn.Linear(2, 2)),
        "averaged": torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
        "half": nn.Linear(3, 3).half(),
        "double": nn.Linear(3, 3).double(),
        "bfloat16": nn.Linear(3, 3).bfloat16(),
        "lists": nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(3))]),
        "channels_last": nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", many_modules())
def test_modules_of_every_kind_read_like_their_state_dict(name: str, container: str) -> None:
    module = many_modules()[name]
    is_new = CONTAINERS[container]
    assert_equal(opened(saved(module.state_dict(), _use_new_zipfile_serialization=is_new)), module.state_dict())
    if name != "weight_norm":  # such modules refuse to be pickled whole
        assert_equal(opened(saved(module, _use_new_zipfile_serialization=is_new)), module.state_dict())


def test_parameters_with_attributes_of_their_own_are_read() -> None:
    weight = nn.Parameter(torch.arange(3.0))
    weight.is_special = True
    plain = torch.arange(4.0)
    plain.note = "kept"
    assert_equal(opened(saved({"weight": weight, "plain": plain})), {"weight": weight, "plain": plain})


def test_the_device_of_a_tensor_does_not_matter() -> None:
    model = network()
    content = saved(model.state_dict(), _use_new_zipfile_serialization=False)
    for device in ("cuda:0", "mps", "xla:1", "hpu"):
        tag = b"X" + len(device).to_bytes(4, "little") + device.encode()
        assert_equal(opened(content.replace(b"X\x03\x00\x00\x00cpu", tag)), model.state_dict())


def test_policies_of_stable_baselines3_saved_alone_are_read() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    import io

    agent = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)
    buffer = io.BytesIO()
    torch.save({"state_dict": agent.policy.state_dict(), "data": agent.policy._get_constructor_parameters()}, buffer)
    assert_equal(opened(buffer.getvalue()), agent.policy.state_dict())
    whole = opened(saved(agent.policy))
    assert_equal(whole, agent.policy.state_dict())
    [optimizer] = whole.optimizers
    assert [moments.tensor for moments in optimizer.parameters] == list(agent.q_net.state_dict(prefix="q_net."))


@pytest.mark.filterwarnings("ignore")
def test_the_packed_weights_of_quantized_torchscript_are_found() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(quantized), buffer)
    shapes = [tensor.shape for tensor in opened(buffer.getvalue()).tensors]
    assert shapes == [(4, 8), (4,), (2, 4), (2,)]
