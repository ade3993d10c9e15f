"""Layer inference from names and shapes, compared with real modules of torch, SB3 and sb3-contrib."""

import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_doctor.layers import Kind, Outline, count_blocks, gate_slices, infer_layers, is_target, online_name

torch = pytest.importorskip("torch")
nn = torch.nn

KINDS = {
    nn.Linear: Kind.LINEAR,
    nn.Conv1d: Kind.CONV,
    nn.Conv2d: Kind.CONV,
    nn.Conv3d: Kind.CONV,
    nn.ConvTranspose1d: Kind.CONV,
    nn.ConvTranspose2d: Kind.CONV,
    nn.Embedding: Kind.EMBEDDING,
    nn.LSTM: Kind.LSTM,
    nn.LSTMCell: Kind.LSTM,
    nn.GRU: Kind.GRU,
    nn.GRUCell: Kind.GRU,
    nn.RNN: Kind.RNN,
    nn.RNNCell: Kind.RNN,
    nn.LayerNorm: Kind.LAYER_NORM,
    nn.RMSNorm: Kind.RMS_NORM,
    nn.BatchNorm1d: Kind.BATCH_NORM,
    nn.BatchNorm2d: Kind.BATCH_NORM,
    nn.GroupNorm: Kind.GROUP_NORM,
    nn.MultiheadAttention: Kind.ATTENTION,
    nn.PReLU: Kind.PARAMETER,
}


def shapes_of(module, prefix=""):
    dtype = str.removeprefix
    return {
        prefix + name: (tuple(tensor.shape), dtype(str(tensor.dtype), "torch."))
        for name, tensor in module.state_dict().items()
    }


def read(table):
    """Outline a table of ``name shape`` with float32 throughout; returns layers by name."""
    shapes = table if isinstance(table, dict) else parse(table)
    return {outline.name: outline for outline in infer_layers(shapes)}


def parse(table):
    shapes = {}
    for line in table.strip().splitlines():
        name, *rest = line.split()
        sizes = tuple(int(size) for size in rest[0].split("x")) if rest and rest[0] != "-" else ()
        shapes[name] = (sizes, rest[1] if len(rest) > 1 else "float32")
    return shapes


def layer_of(layers):
    return {tensor: layer for layer in layers.values() for tensor in layer.parts.values()}


def assert_agrees(module):
    """Every parameter's layer is of the kind of the module that really holds it."""
    layers = read(shapes_of(module))
    found = layer_of(layers)
    wrong = []
    for path, owner in module.named_modules():
        expected = next((KINDS[base] for base in type(owner).__mro__ if base in KINDS), None)
        for name, _ in owner.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            want = expected if expected is not None else Kind.PARAMETER
            if found[full].kind is not want:
                wrong.append((full, want.value, found[full].kind.value))
    assert not wrong
    return layers


def chain(layers, name):
    names = [name]
    while layers[names[-1]].following:
        names.append(layers[names[-1]].following)
    return names


def outputs(layers):
    return [layer.name for layer in layers.values() if layer.is_output]


# --- plain networks -------------------------------------------------------------------------------------------------


def test_an_mlp_is_a_chain_of_linear_layers_that_ends_in_its_output():
    layers = assert_agrees(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)))
    assert chain(layers, "0") == ["0", "2", "4"]
    assert layers["4"].previous == "2"
    assert outputs(layers) == ["4"]


def test_a_gain_between_two_matrices_is_a_layer_norm():
    layers = read(
        """
        entry_quality_head.0.weight 64x128
        entry_quality_head.0.bias 64
        entry_quality_head.1.weight 64
        entry_quality_head.1.bias 64
        entry_quality_head.3.weight 1x64
        entry_quality_head.3.bias 1
        """
    )
    assert layers["entry_quality_head.1"].kind is Kind.LAYER_NORM
    assert chain(layers, "entry_quality_head.0") == [f"entry_quality_head.{number}" for number in (0, 1, 3)]
    assert outputs(layers) == ["entry_quality_head.3"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "wrapper/"])
def test_wrappers_change_names_and_nothing_else(prefix):
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    plain, wrapped = read(shapes_of(module)), read(shapes_of(module, prefix))
    assert [prefix + name for name in plain] == list(wrapped)
    for name, layer in plain.items():
        inside = wrapped[prefix + name]
        assert (inside.kind, inside.is_output) == (layer.kind, layer.is_output)
        assert inside.following == (prefix + layer.following if layer.following else None)


def test_kinds_of_norms_in_sequentials():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
            self.bn_free = nn.BatchNorm1d(8, affine=False)
            self.group_norm = nn.GroupNorm(2, 8)
            self.rms_norm = nn.RMSNorm(8)
            self.input_layernorm = nn.RMSNorm(8)
            self.norm = nn.LayerNorm(8)
            self.images = nn.LayerNorm((3, 4, 4))

    layers = assert_agrees(Net())
    assert layers["bn_free"].kind is Kind.BATCH_NORM
    assert set(layers["first.1"].parts) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert chain(layers, "first.0") == ["first.0", "first.1", "first.3"]


def test_what_only_scales_is_no_norm():
    layers = read(
        """
        net.0.weight 8x4x3x3
        net.0.bias 8
        net.1.weight 8
        net.2.weight 8x8x3x3
        net.2.bias 8
        prelu.weight 1
        log_std 3
        blocks.0.ls1.gamma 8
        blocks.0.gamma_1 8
        blocks.0.layer_scale 8
        logit_scale -
        gate 1
        """
    )
    scales = [name for name in layers if name not in ("net.0", "net.2")]
    assert {layers[name].kind for name in scales} == {Kind.PARAMETER}
    assert "net.1" in scales
    assert layers["net.0"].following == "net.2"
    assert layers["log_std"].parts == {"value": "log_std"}


def test_other_spellings_of_gain_and_offset():
    layers = read(
        """
        LayerNorm.gamma 8
        LayerNorm.beta 8
        ln_1.g 8
        ln_1.b 8
        norm.a_2 8
        norm.b_2 8
        attn_norm.scale 8
        """
    )
    assert {name: layer.kind for name, layer in layers.items()} == {
        "LayerNorm": Kind.LAYER_NORM,
        "ln_1": Kind.LAYER_NORM,
        "norm": Kind.LAYER_NORM,
        "attn_norm": Kind.RMS_NORM,
    }
    assert layers["LayerNorm"].parts == {"weight": "LayerNorm.gamma", "bias": "LayerNorm.beta"}


def test_a_convolutional_net_flattens_into_its_linear_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 6, 5), nn.BatchNorm2d(6)
            self.conv2 = nn.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    layers = assert_agrees(Net())
    assert chain(layers, "conv1") == ["conv1", "bn1", "conv2", "fc1", "fc2", "fc3"]
    assert outputs(layers) == ["fc3"]


def test_transposed_convolutions_are_stored_inputs_first():
    generator = nn.Sequential(
        nn.ConvTranspose2d(100, 64, 4, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, bias=False),
    )
    layers = assert_agrees(generator)
    assert [name for name, layer in layers.items() if layer.transposed] == ["0", "3", "6"]
    assert chain(layers, "0") == ["0", "1", "3", "4", "6"]
    assert outputs(layers) == ["6"]
    up = read(shapes_of(nn.ConvTranspose1d(16, 8, 4), "ups.0."))["ups.0"]
    assert (up.kind, up.transposed) == (Kind.CONV, True)


def test_numbered_layers_with_a_cell_between_them_are_not_linked():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.rnn, self.fc2 = nn.Linear(10, 64), nn.GRUCell(64, 64), nn.Linear(64, 64)

    layers = assert_agrees(Agent())
    assert layers["fc1"].following is None
    assert not layers["fc1"].is_output


def test_parallel_lists_are_not_chains():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(64, 64) for _ in range(3)])
            self.mix = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])

    layers = assert_agrees(Net())
    assert all(layer.following is None for layer in layers.values())


def test_encoders_whose_outputs_are_concatenated_are_no_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.robot = nn.Sequential(nn.Linear(7, 64), nn.ReLU(), nn.Linear(64, 64))
            self.human = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64))
            self.fusion = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))

    assert outputs(read(shapes_of(Net()))) == ["fusion.2"]


def test_a_trunk_is_not_the_output_of_its_heads():
    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.actor = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
            self.critic = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    layers = read(shapes_of(ActorCritic()))
    assert outputs(layers) == ["actor.2", "critic.2"]
    assert layers["trunk.2"].following is None


def test_the_latent_heads_of_an_autoencoder_are_read_by_its_decoder():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc_mu, self.fc_var = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
            self.decoder_input = nn.Linear(20, 400)
            self.final_layer = nn.Linear(400, 784)

    assert outputs(read(shapes_of(VAE()))) == ["final_layer"]


# --- recurrent layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_are_split_by_depth_and_direction(cell, bidirectional):
    module = nn.ModuleDict({"memory": cell(6, 5, num_layers=3, bidirectional=bidirectional)})
    layers = assert_agrees(module)
    directions = ("", "_reverse") if bidirectional else ("",)
    assert list(layers) == [f"memory.l{depth}{direction}" for depth in range(3) for direction in directions]
    assert all(set(layer.parts) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} for layer in layers.values())
    expected = [None] * 6 if bidirectional else ["memory.l1", "memory.l2", None]
    assert [layer.following for layer in layers.values()] == expected


def test_projected_lstm_and_cells_and_bare_modules():
    assert set(read(shapes_of(nn.LSTM(4, 6, proj_size=2), "lstm."))["lstm.l0"].parts) >= {"weight_hr"}
    assert read(shapes_of(nn.LSTM(4, 6, proj_size=2)))["l0"].kind is Kind.LSTM
    # Here rows / columns of weight_hh is 4 × 6 / 8 = 3: only the projection tells that this is no GRU.
    assert read(shapes_of(nn.LSTM(4, 8, proj_size=6, num_layers=1)))["l0"].kind is Kind.LSTM
    for cell, kind in ((nn.LSTMCell, Kind.LSTM), (nn.GRUCell, Kind.GRU), (nn.RNNCell, Kind.RNN)):
        layers = read(shapes_of(cell(3, 4), "cell."))
        assert layers["cell"].kind is kind
    assert read(shapes_of(nn.GRU(3, 4, bias=False)))["l0"].parts.keys() == {"weight_ih", "weight_hh"}


def test_lstms_that_are_spread_over_modules():
    layers = read(
        """
        encoder.layer_0.input_linearity.weight 40x7
        encoder.layer_0.input_linearity.bias 40
        encoder.layer_0.state_linearity.weight 40x10
        encoder.layer_0.state_linearity.bias 40
        highway.layer_0.input_linearity.weight 60x7
        highway.layer_0.state_linearity.weight 50x10
        highway.layer_0.state_linearity.bias 50
        elmo.forward_layer_0.input_linearity.weight 64x8
        elmo.forward_layer_0.state_linearity.weight 64x8
        elmo.forward_layer_0.state_linearity.bias 64
        elmo.forward_layer_0.state_projection.weight 8x16
        rnns.0.weight_hh_l0_raw 24x6
        rnns.0.module.weight_ih_l0 24x5
        rnns.0.module.bias_ih_l0 24
        rnns.0.module.bias_hh_l0 24
        """
    )
    assert layers["encoder.layer_0"].kind is Kind.LSTM
    assert layers["encoder.layer_0"].parts["weight_hh"] == "encoder.layer_0.state_linearity.weight"
    assert layers["highway.layer_0.state_linearity"].kind is Kind.LINEAR
    assert layers["elmo.forward_layer_0"].parts["weight_hr"] == "elmo.forward_layer_0.state_projection.weight"
    assert layers["rnns.0.module.l0"].parts["weight_hh_raw"] == "rnns.0.weight_hh_l0_raw"


def test_shapes_that_no_cell_has_are_no_cell():
    layers = read("x.weight_ih 7x3\nx.weight_hh 7x3\ny.weight_ih 8x8")
    assert {layer.kind for layer in layers.values()} == {Kind.PARAMETER}


# --- attention and transformers -------------------------------------------------------------------------------------


def test_torch_transformer_layers():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, dim_feedforward=16, batch_first=True), 2)
    layers = assert_agrees(encoder)
    assert layers["layers.0.self_attn"].parts == {
        "weight": "layers.0.self_attn.in_proj_weight",
        "bias": "layers.0.self_attn.in_proj_bias",
    }
    assert layers["layers.0.self_attn.out_proj"].kind is Kind.LINEAR
    assert layers["layers.0.linear1"].following == "layers.0.linear2"
    assert layers["layers.0.linear2"].following is None
    assert outputs(layers) == []


def test_torch_attention_with_keys_and_values_of_other_sizes():
    layers = assert_agrees(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)}))
    assert set(layers["attn"].parts) == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "bias", "bias_k", "bias_v"}


GPT2 = """
wte.weight 100x16
wpe.weight 32x16
h.0.ln_1.weight 16
h.0.ln_1.bias 16
h.0.attn.bias 1x1x32x32
h.0.attn.masked_bias -
h.0.attn.c_attn.weight 16x48
h.0.attn.c_attn.bias 48
h.0.attn.c_proj.weight 16x16
h.0.attn.c_proj.bias 16
h.0.mlp.c_fc.weight 16x64
h.0.mlp.c_fc.bias 64
h.0.mlp.c_proj.weight 64x16
h.0.mlp.c_proj.bias 16
ln_f.weight 16
ln_f.bias 16
lm_head.weight 100x16
"""

LLAMA = """
model.embed_tokens.weight 100x16
model.layers.0.self_attn.q_proj.weight 16x16
model.layers.0.self_attn.k_proj.weight 8x16
model.layers.0.self_attn.v_proj.weight 8x16
model.layers.0.self_attn.o_proj.weight 16x16
model.layers.0.self_attn.rotary_emb.inv_freq 4
model.layers.0.mlp.gate_proj.weight 44x16
model.layers.0.mlp.up_proj.weight 44x16
model.layers.0.mlp.down_proj.weight 16x44
model.layers.0.input_layernorm.weight 16
model.layers.0.post_attention_layernorm.weight 16
model.layers.0.self_attn.q_norm.weight 4
model.norm.weight 16
lm_head.weight 100x16
"""

T5 = """
shared.weight 100x16
encoder.embed_tokens.weight 100x16
encoder.block.0.layer.0.SelfAttention.q.weight 16x16
encoder.block.0.layer.0.SelfAttention.o.weight 16x16
encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight 32x4
encoder.block.0.layer.0.layer_norm.weight 16
encoder.block.0.layer.1.DenseReluDense.wi.weight 64x16
encoder.block.0.layer.1.DenseReluDense.wo.weight 16x64
encoder.block.0.layer.1.layer_norm.weight 16
encoder.final_layer_norm.weight 16
lm_head.weight 100x16
"""

BERT = """
bert.embeddings.position_ids 1x32 int64
bert.embeddings.word_embeddings.weight 100x16
bert.embeddings.position_embeddings.weight 32x16
bert.embeddings.token_type_embeddings.weight 2x16
bert.embeddings.LayerNorm.weight 16
bert.embeddings.LayerNorm.bias 16
bert.encoder.layer.0.attention.self.query.weight 16x16
bert.encoder.layer.0.attention.self.query.bias 16
bert.encoder.layer.0.attention.self.key.weight 16x16
bert.encoder.layer.0.attention.self.key.bias 16
bert.encoder.layer.0.attention.self.value.weight 16x16
bert.encoder.layer.0.attention.self.value.bias 16
bert.encoder.layer.0.attention.output.dense.weight 16x16
bert.encoder.layer.0.attention.output.dense.bias 16
bert.encoder.layer.0.intermediate.dense.weight 64x16
bert.encoder.layer.0.intermediate.dense.bias 64
bert.encoder.layer.0.output.dense.weight 16x64
bert.encoder.layer.0.output.dense.bias 16
bert.pooler.dense.weight 16x16
bert.pooler.dense.bias 16
classifier.weight 3x16
classifier.bias 3
"""

VIT = """
cls_token 1x1x16
pos_embed 1x17x16
patch_embed.proj.weight 16x3x4x4
patch_embed.proj.bias 16
blocks.0.norm1.weight 16
blocks.0.norm1.bias 16
blocks.0.attn.qkv.weight 48x16
blocks.0.attn.qkv.bias 48
blocks.0.attn.proj.weight 16x16
blocks.0.attn.proj.bias 16
blocks.0.ls1.gamma 16
blocks.0.norm2.weight 16
blocks.0.norm2.bias 16
blocks.0.mlp.fc1.weight 64x16
blocks.0.mlp.fc1.bias 64
blocks.0.mlp.fc2.weight 16x64
blocks.0.mlp.fc2.bias 16
norm.weight 16
norm.bias 16
head.weight 10x16
head.bias 10
"""

UNET = """
conv_in.weight 32x4x3x3
conv_in.bias 32
time_embedding.linear_1.weight 64x32
time_embedding.linear_1.bias 64
time_embedding.linear_2.weight 64x64
time_embedding.linear_2.bias 64
down_blocks.0.resnets.0.norm1.weight 32
down_blocks.0.resnets.0.norm1.bias 32
down_blocks.0.resnets.0.conv1.weight 32x32x3x3
down_blocks.0.resnets.0.conv1.bias 32
down_blocks.0.resnets.0.time_emb_proj.weight 32x64
down_blocks.0.resnets.0.time_emb_proj.bias 32
down_blocks.0.resnets.0.norm2.weight 32
down_blocks.0.resnets.0.norm2.bias 32
down_blocks.0.resnets.0.conv2.weight 32x32x3x3
down_blocks.0.resnets.0.conv2.bias 32
down_blocks.0.attentions.0.norm.weight 32
down_blocks.0.attentions.0.norm.bias 32
down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight 32
down_blocks.0.attentions.0.transformer_blocks.0.norm1.bias 32
down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight 32x32
down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight 32x32
down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.bias 32
conv_norm_out.weight 32
conv_norm_out.bias 32
conv_out.weight 4x32x3x3
conv_out.bias 4
"""


@pytest.mark.parametrize(
    ("table", "expected", "heads"),
    [
        (
            GPT2,
            {
                "wte": Kind.EMBEDDING,
                "wpe": Kind.EMBEDDING,
                "h.0.ln_1": Kind.LAYER_NORM,
                "h.0.attn.bias": Kind.BUFFER,
                "h.0.attn.masked_bias": Kind.BUFFER,
                "h.0.attn.c_attn": Kind.ATTENTION,
                "h.0.attn.c_proj": Kind.LINEAR,
                "h.0.mlp.c_fc": Kind.LINEAR,
                "ln_f": Kind.LAYER_NORM,
            },
            ["lm_head"],
        ),
        (
            LLAMA,
            {
                "model.embed_tokens": Kind.EMBEDDING,
                "model.layers.0.self_attn.rotary_emb.inv_freq": Kind.BUFFER,
                "model.layers.0.input_layernorm": Kind.RMS_NORM,
                "model.layers.0.self_attn.q_norm": Kind.RMS_NORM,
                "model.norm": Kind.RMS_NORM,
                "model.layers.0.self_attn.q_proj": Kind.LINEAR,
            },
            ["lm_head"],
        ),
        (
            T5,
            {
                "shared": Kind.EMBEDDING,
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": Kind.EMBEDDING,
                "encoder.block.0.layer.0.layer_norm": Kind.RMS_NORM,
                "encoder.block.0.layer.0.SelfAttention.q": Kind.LINEAR,
            },
            ["lm_head"],
        ),
        (
            BERT,
            {
                "bert.embeddings.position_ids": Kind.BUFFER,
                "bert.embeddings.position_embeddings": Kind.EMBEDDING,
                "bert.embeddings.LayerNorm": Kind.LAYER_NORM,
                "bert.encoder.layer.0.attention.self.key": Kind.LINEAR,
            },
            ["classifier"],
        ),
        (
            VIT,
            {
                "cls_token": Kind.PARAMETER,
                "pos_embed": Kind.PARAMETER,
                "patch_embed.proj": Kind.CONV,
                "blocks.0.attn.qkv": Kind.ATTENTION,
                "blocks.0.ls1.gamma": Kind.PARAMETER,
                "blocks.0.norm1": Kind.LAYER_NORM,
            },
            ["head"],
        ),
        (
            UNET,
            {
                "conv_in": Kind.CONV,
                "time_embedding.linear_1": Kind.LINEAR,
                "down_blocks.0.resnets.0.norm1": Kind.GROUP_NORM,
                "down_blocks.0.attentions.0.norm": Kind.GROUP_NORM,
                "down_blocks.0.attentions.0.transformer_blocks.0.norm1": Kind.LAYER_NORM,
                "conv_norm_out": Kind.GROUP_NORM,
            },
            ["conv_out"],
        ),
    ],
    ids=["gpt2", "llama", "t5", "bert", "vit", "unet"],
)
def test_published_architectures(table, expected, heads):
    layers = read(table)
    assert {name: layers[name].kind for name in expected} == expected
    assert outputs(layers) == heads


def test_feed_forward_blocks_are_linked():
    llama, gpt2, bert = read(LLAMA), read(GPT2), read(BERT)
    down = "model.layers.0.mlp.down_proj"
    assert llama["model.layers.0.mlp.up_proj"].following == llama["model.layers.0.mlp.gate_proj"].following == down
    assert gpt2["h.0.mlp.c_fc"].following == "h.0.mlp.c_proj"
    assert bert["bert.encoder.layer.0.intermediate.dense"].following == "bert.encoder.layer.0.output.dense"
    assert read(VIT)["blocks.0.mlp.fc1"].following == "blocks.0.mlp.fc2"
    assert read(T5)["encoder.block.0.layer.1.DenseReluDense.wi"].following is not None
    gated = read("ff.w1.weight 44x16\nff.w2.weight 16x44\nff.w3.weight 44x16")
    assert [layer.following for layer in gated.values()] == ["ff.w2", None, "ff.w2"]


def test_gpt2_stores_inputs_first_and_nanogpt_does_not():
    layers = read(GPT2)
    assert layers["h.0.attn.c_attn"].transposed
    assert layers["h.0.mlp.c_fc"].transposed
    assert layers["h.0.attn.c_proj"].transposed, "a square matrix is stored as its neighbours are"
    assert not layers["lm_head"].transposed
    nano = read("a.c_attn.weight 48x16\na.c_attn.bias 48\na.c_proj.weight 16x16\na.c_proj.bias 16")
    assert not any(layer.transposed for layer in nano.values())


# --- reparametrized, adapted, quantized -----------------------------------------------------------------------------


def test_parametrized_weights_stay_in_their_layer():
    from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

    pruned = nn.Linear(4, 8)
    prune.random_unstructured(pruned, "weight", 0.5)
    cases = {
        "pruned": (pruned, {"weight_orig", "weight_mask", "bias"}),
        "normed": (parametrizations.weight_norm(nn.Linear(4, 8)), {"weight_g", "weight_v", "bias"}),
        "spectral": (
            parametrizations.spectral_norm(nn.Linear(4, 8)),
            {"weight_orig", "spectral_u", "spectral_v", "bias"},
        ),
    }
    with pytest.warns(FutureWarning):
        cases["old_normed"] = (weight_norm(nn.Linear(4, 8)), {"weight_g", "weight_v", "bias"})
    cases["old_spectral"] = (spectral_norm(nn.Linear(4, 8)), {"weight_orig", "spectral_u", "spectral_v", "bias"})
    for name, (module, roles) in cases.items():
        (layer,) = read(shapes_of(module, f"{name}.")).values()
        assert (layer.name, layer.kind, set(layer.parts)) == (name, Kind.LINEAR, roles)


def test_low_rank_adapters_are_layers_beside_what_they_adapt():
    layers = read(
        """
        base_model.model.q_proj.base_layer.weight 16x16
        base_model.model.q_proj.lora_A.default.weight 4x16
        base_model.model.q_proj.lora_B.default.weight 16x4
        base_model.model.v_proj.lora_A.weight 4x16
        base_model.model.v_proj.lora_B.weight 16x4
        emb.lora_embedding_A.default 4x100
        emb.lora_embedding_B.default 16x4
        lora_unet_mid_to_k.alpha -
        lora_unet_mid_to_k.lora_down.weight 4x16
        lora_unet_mid_to_k.lora_up.weight 16x4
        attn.to_q.lora.down.weight 4x16
        attn.to_q.lora.up.weight 16x4
        attn.processor.to_v_lora.down.weight 4x16
        attn.processor.to_v_lora.up.weight 16x4
        """
    )
    assert layers["base_model.model.q_proj.base_layer"].kind is Kind.LINEAR
    adapters = {name: set(layer.parts) for name, layer in layers.items() if layer.kind is Kind.LORA}
    assert adapters == {
        "base_model.model.q_proj.lora.default": {"lora_A", "lora_B"},
        "base_model.model.v_proj.lora": {"lora_A", "lora_B"},
        "emb.lora.default": {"lora_A", "lora_B"},
        "lora_unet_mid_to_k.lora": {"lora_A", "lora_B", "alpha"},
        "attn.to_q.lora": {"lora_A", "lora_B"},
        "attn.processor.to_v_lora": {"lora_A", "lora_B"},
    }
    assert outputs(layers) == []


def test_quantized_and_counted_things_are_buffers():
    layers = read(
        """
        q.qweight 2x16 int32
        q.qzeros 1x2 int32
        q.scales 1x16 float16
        q.g_idx 16 int32
        k.weight 16x16 int8
        k.SCB 16 float32
        v.weight 128x1 uint8
        v.weight.absmax 4
        v.weight.quant_map 16
        pos.pe 1x100x16
        bn.num_batches_tracked - int64
        normalize.running_mean 4
        normalize.running_var 4
        normalize.count - int32
        mask 8x8 bool
        """
    )
    assert {layer.kind for layer in layers.values()} == {Kind.BUFFER}
    assert layers["q"].parts.keys() == {"qweight", "qzeros", "scales", "g_idx"}


def test_tied_embeddings_and_linear_layers_called_embed():
    layers = read(
        """
        emb.weight 100x16
        edge_embed.weight 64x256
        edge_embed.bias 64
        embed.0.weight 64x4
        embed.2.weight 64x64
        embeds.0.weight 10x3
        embeds.1.weight 20x5
        decoder.weight 100x16
        """
    )
    assert {name for name, layer in layers.items() if layer.kind is Kind.EMBEDDING} == {"emb", "embeds.0", "embeds.1"}
    assert layers["embed.0"].following == "embed.2"


def test_resnet_blocks():
    class Block(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)
            if inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, bias=False), nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(Block(8, 8), Block(8, 8))
            self.layer2 = nn.Sequential(Block(8, 16), Block(16, 16))
            self.fc = nn.Linear(16, 10)

    layers = assert_agrees(ResNet())
    assert chain(layers, "conv1") == ["conv1", "bn1"]
    assert chain(layers, "layer2.0.conv1") == [f"layer2.0.{name}" for name in ("conv1", "bn1", "conv2", "bn2")]
    assert chain(layers, "layer2.0.downsample.0") == ["layer2.0.downsample.0", "layer2.0.downsample.1"]
    assert outputs(layers) == ["fc"]
    assert layers["layer1.0.bn2"].following is None


# --- policies of Stable-Baselines3 ----------------------------------------------------------------------------------


class Boxes:
    """Makes fresh policies of Stable-Baselines3 without an environment behind them."""

    def __init__(self):
        self.spaces = pytest.importorskip("gymnasium").spaces
        pytest.importorskip("stable_baselines3")
        self.observation = self.spaces.Box(-1, 1, (5,))
        self.image = self.spaces.Box(0, 255, (3, 36, 36), dtype="uint8")
        self.continuous = self.spaces.Box(-1, 1, (2,))
        self.discrete = self.spaces.Discrete(3)


def schedule(_):
    return 1e-3


@pytest.fixture(scope="module")
def boxes():
    return Boxes()


def test_ppo_policy(boxes):
    from stable_baselines3.ppo import MlpPolicy

    layers = assert_agrees(MlpPolicy(boxes.observation, boxes.continuous, schedule))
    assert chain(layers, "mlp_extractor.policy_net.0")[1:] == ["mlp_extractor.policy_net.2", "action_net"]
    assert chain(layers, "mlp_extractor.value_net.0")[1:] == ["mlp_extractor.value_net.2", "value_net"]
    assert outputs(layers) == ["action_net", "value_net"]
    assert layers["log_std"].kind is Kind.PARAMETER
    assert {name: layer.component for name, layer in layers.items()} == {
        "log_std": "policy",
        "mlp_extractor.policy_net.0": "policy",
        "mlp_extractor.policy_net.2": "policy",
        "action_net": "policy",
        "mlp_extractor.value_net.0": "value",
        "mlp_extractor.value_net.2": "value",
        "value_net": "value",
    }


def test_ppo_without_hidden_layers_and_with_images(boxes):
    from stable_baselines3.ppo import CnnPolicy, MlpPolicy

    assert outputs(assert_agrees(MlpPolicy(boxes.observation, boxes.discrete, schedule, net_arch=[]))) == [
        "action_net",
        "value_net",
    ]
    policy = CnnPolicy(boxes.image, boxes.discrete, schedule)
    layers = assert_agrees(policy)
    for extractor in ("features_extractor", "pi_features_extractor"):
        # One extractor under three names or two separate ones: names do not tell, so nothing is said of the readers.
        steps = [f"{extractor}.{part}" for part in ("cnn.0", "cnn.2", "cnn.4", "linear.0")]
        assert chain(layers, steps[0]) == steps
    assert outputs(layers) == ["action_net", "value_net"]
    older = {name: shape for name, shape in shapes_of(policy).items() if not name.startswith(("pi_", "vf_"))}
    assert read(older)["features_extractor.linear.0"].followers == ("action_net", "value_net")


def test_sac_policy(boxes):
    from stable_baselines3.sac import MlpPolicy

    layers = assert_agrees(MlpPolicy(boxes.observation, boxes.continuous, schedule))
    assert layers["actor.latent_pi.2"].followers == ("actor.mu", "actor.log_std")
    assert chain(layers, "critic.qf1.0") == ["critic.qf1.0", "critic.qf1.2", "critic.qf1.4"]
    assert outputs(layers) == [
        "actor.mu",
        "actor.log_std",
        *(f"{critic}.qf{number}.4" for critic in ("critic", "critic_target") for number in (0, 1)),
    ]
    assert {layer.component for layer in layers.values()} == {"actor", "critic", "critic_target"}


def test_sac_with_state_dependent_exploration_and_images(boxes):
    from stable_baselines3.sac import CnnPolicy, MlpPolicy

    layers = assert_agrees(MlpPolicy(boxes.observation, boxes.continuous, schedule, use_sde=True))
    assert layers["actor.log_std"].kind is Kind.PARAMETER
    assert layers["actor.latent_pi.2"].followers == ("actor.mu.0",)
    layers = assert_agrees(CnnPolicy(boxes.image, boxes.continuous, schedule))
    assert layers["actor.features_extractor.linear.0"].followers == ("actor.latent_pi.0",)
    # The critic reads features and actions side by side: not the same columns.
    assert layers["critic.features_extractor.linear.0"].followers == ()
    assert not any(layer.is_output for name, layer in layers.items() if "features_extractor" in name)


def test_td3_and_dqn_policies(boxes):
    from stable_baselines3.dqn import CnnPolicy as ImagePolicy
    from stable_baselines3.dqn import MlpPolicy as DqnPolicy
    from stable_baselines3.td3 import MlpPolicy as Td3Policy

    layers = assert_agrees(Td3Policy(boxes.observation, boxes.continuous, schedule))
    assert chain(layers, "actor_target.mu.0") == ["actor_target.mu.0", "actor_target.mu.2", "actor_target.mu.4"]
    assert "actor.mu.4" in outputs(layers)
    layers = assert_agrees(DqnPolicy(boxes.observation, boxes.discrete, schedule, net_arch=[3, 3]))
    assert outputs(layers) == ["q_net.q_net.4", "q_net_target.q_net.4"]
    layers = assert_agrees(ImagePolicy(boxes.image, boxes.discrete, schedule))
    assert chain(layers, "q_net.features_extractor.cnn.4")[1:] == ["q_net.features_extractor.linear.0", "q_net.q_net.0"]
    assert outputs(layers) == ["q_net.q_net.0", "q_net_target.q_net.0"]


def test_contrib_policies(boxes):
    pytest.importorskip("sb3_contrib")
    from sb3_contrib.ars import MlpPolicy as ArsPolicy
    from sb3_contrib.crossq import MlpPolicy as CrossqPolicy
    from sb3_contrib.ppo_recurrent import MlpLstmPolicy
    from sb3_contrib.qrdqn import MlpPolicy as QrdqnPolicy
    from sb3_contrib.tqc import MlpPolicy as TqcPolicy

    assert outputs(assert_agrees(ArsPolicy(boxes.observation, boxes.discrete, net_arch=[8]))) == ["action_net.2"]
    assert "quantile_net.quantile_net.4" in outputs(
        assert_agrees(QrdqnPolicy(boxes.observation, boxes.discrete, schedule))
    )
    assert "critic.qf0.4" in outputs(assert_agrees(TqcPolicy(boxes.observation, boxes.continuous, schedule)))
    policy = CrossqPolicy(boxes.observation, boxes.continuous, schedule)
    layers = read(shapes_of(policy))
    renormalisations = [
        path for path, module in policy.named_modules() if type(module).__name__.startswith("BatchRenorm")
    ]
    assert renormalisations
    for path in renormalisations:
        assert layers[path].kind is Kind.BATCH_NORM
        assert set(layers[path].parts) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {"actor.mu", "actor.log_std"} <= set(outputs(layers))
    first = next(name for name in layers if name.startswith("critic.qf0."))
    assert chain(layers, first)[-1] in outputs(layers)

    for options in ({}, {"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False}):
        layers = assert_agrees(MlpLstmPolicy(boxes.observation, boxes.discrete, schedule, **options))
        assert layers["lstm_actor.l0"].kind is Kind.LSTM
        expected = ["mlp_extractor.policy_net.0"] if not options else None
        assert (
            chain(layers, "lstm_actor.l0")[1:3]
            == [
                "mlp_extractor.policy_net.0",
                "mlp_extractor.policy_net.2",
            ][: 2 if expected or layers["mlp_extractor.policy_net.0"] else 0]
        )
        assert outputs(layers) == ["action_net", "value_net"]
        if not options:
            assert layers["lstm_critic.l0"].following == "mlp_extractor.value_net.0"
        elif "shared_lstm" in options:
            assert layers["lstm_actor.l0"].followers == ("mlp_extractor.policy_net.0", "mlp_extractor.value_net.0")
        else:
            assert layers["critic"].following == "mlp_extractor.value_net.0"


# --- networks as people write them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "heads"),
    [
        (
            "l1.weight 256x23\nl2.weight 256x256\nl3.weight 1x256"
            "\nl4.weight 256x23\nl5.weight 256x256\nl6.weight 1x256",
            "l3 l6",
        ),
        ("fc1.weight 256x17\nfc2.weight 256x256\nfc_mean.weight 6x256\nfc_logstd.weight 6x256", "fc_mean fc_logstd"),
        (
            "network.0.weight 32x4x8x8\nnetwork.3.weight 512x3136\nactor.weight 6x512\ncritic.weight 1x512",
            "actor critic",
        ),
        (
            "actor.0.weight 64x11\nactor.2.weight 64x64\ncritic.0.weight 64x11\ncritic.2.weight 64x64"
            "\ncritic_linear.weight 1x64\nfc_mean.weight 3x64",
            "critic_linear fc_mean",
        ),
        (
            "encoder.0.weight 128x784\nencoder.2.weight 32x128\ndecoder.0.weight 128x32\ndecoder.2.weight 784x128",
            "decoder.2",
        ),
        ("final_layer.linear.weight 32x64\nfinal_layer.adaLN_modulation.1.weight 128x64", "final_layer.linear"),
        (
            "bbox_embed.layers.0.weight 64x64\nbbox_embed.layers.1.weight 64x64\nbbox_embed.layers.2.weight 4x64",
            "bbox_embed.layers.2",
        ),
        (
            "0/affine1.weight 64x11\n0/affine2.weight 64x64\n0/action_mean.weight 3x64\n1/value_head.weight 1x64",
            "0/action_mean 1/value_head",
        ),
        (
            "features.0.weight 8x3x3x3\nfeatures.2.weight 16x8x3x3"
            "\nclassifier.0.weight 64x784\nclassifier.2.weight 10x64",
            "classifier.2",
        ),
        ("gate.0.weight 64x128\npooler.dense.weight 64x64\nattention.out.weight 64x64\nse.fc.weight 4x64", ""),
    ],
    ids=["td3", "cleanrl-sac", "cleanrl-ppo", "a2c", "autoencoder", "dit", "detr", "several", "vgg", "none"],
)
def test_everyday_networks_end_in_their_heads(table, heads):
    assert outputs(read(table)) == heads.split()


def test_a_subclass_with_parts_of_its_own_may_read_anything():
    layers = read(
        """
        mlp_extractor.policy_net.0.weight 24x8
        mlp_extractor.policy_net.2.weight 24x24
        action_net.weight 3x24
        entry_quality_head.0.weight 64x24
        entry_quality_head.2.weight 3x64
        """
    )
    assert layers["mlp_extractor.policy_net.0"].following == "mlp_extractor.policy_net.2"
    assert layers["mlp_extractor.policy_net.2"].following is None


# --- components and targets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "online"),
    [
        ("critic_target.qf0.0.weight", "critic.qf0.0.weight"),
        ("actor_target.mu.0.bias", "actor.mu.0.bias"),
        ("q_net_target.q_net.4.weight", "q_net.q_net.4.weight"),
        ("quantile_net_target.quantile_net.0.weight", "quantile_net.quantile_net.0.weight"),
        ("target_critic.fc1.weight", "critic.fc1.weight"),
        ("critic_target/fc1.weight", "critic/fc1.weight"),
        ("qf1_target.fc1.weight", "qf1.fc1.weight"),
        ("ac_targ.pi.0.weight", "ac.pi.0.weight"),
        ("module.critic_target.fc1.weight", "module.critic.fc1.weight"),
        ("ema_model.conv.weight", "model.conv.weight"),
        ("_slow_value.layers.0.weight", "_value.layers.0.weight"),
        ("critic_target", "critic"),
    ],
)
def test_the_online_name_of_a_target(target, online):
    assert is_target(target)
    assert online_name(target) == online
    assert not is_target(online)
    assert online_name(online) is None


def test_the_online_name_is_one_of_the_given_names():
    assert online_name("target_net.0.weight", {"policy_net.0.weight"}) == "policy_net.0.weight"
    assert online_name("target_net.0.weight", {"net.0.weight"}) == "net.0.weight"
    assert online_name("target_net.0.weight", {"encoder.0.weight"}) is None
    assert online_name("target_encoder.0.weight", {"online_encoder.0.weight"}) == "online_encoder.0.weight"


@pytest.mark.parametrize(
    "name", ["target_embedding.weight", "_target_embedder.weight", "tgt_tok_emb.weight", "schema.0"]
)
def test_a_target_language_is_no_target_network(name):
    assert not is_target(name)


@pytest.mark.parametrize(("kind", "module"), [(Kind.LSTM, nn.LSTM), (Kind.GRU, nn.GRU), (Kind.RNN, nn.RNN)])
def test_recurrent_layers_have_one_block_of_rows_for_each_gate(kind, module):
    rows = module(3, 5).weight_hh_l0.shape[0]
    assert rows == 5 * count_blocks(kind)
    assert {part.stop - part.start for part in gate_slices(kind, rows).values()} <= {5}
    assert len(gate_slices(kind, rows)) == (0 if kind is Kind.RNN else rows // 5)


def test_norms_are_behind_their_layers_in_files_that_are_sorted_by_name():
    layers = read("bn1.weight 32\nbn1.bias 32\nbn2.weight 48\nbn2.bias 48\nfc1.weight 32x16\nfc2.weight 48x32")
    assert chain(layers, "fc1") == ["fc1", "bn1", "fc2", "bn2"]
    before = read("bn1.weight 16\nbn1.bias 16\nfc1.weight 32x16\nbn2.weight 32\nbn2.bias 32\nfc2.weight 48x32")
    assert chain(before, "bn1") == ["bn1", "fc1", "bn2"]


def test_a_policy_inside_a_policy_keeps_its_own_parts():
    layers = read("action_net.weight 2x8\ncritic.mlp_extractor.policy_net.0.weight 8x4\ncritic.value_net.weight 1x8")
    assert [layer.component for layer in layers.values()] == ["policy", "policy", "value"]


def test_components_come_from_the_first_telling_name():
    layers = read(
        "generator.0.weight 8x4\ngenerator.2.weight 4x8\ndiscriminator.0.weight 8x4\ndiscriminator.2.weight 1x8"
    )
    assert [layer.component for layer in layers.values()] == ["generator"] * 2 + ["discriminator"] * 2
    assert outputs(layers) == ["generator.2", "discriminator.2"]
    assert {layer.component for layer in read("fc1.weight 8x4\nfc2.weight 2x8").values()} == {""}
    assert {layer.component for layer in read("module.net.0.weight 8x4\nmodule.net.2.weight 2x8").values()} == {""}


# --- anything at all ------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "weight",
        "bias",
        "gamma",
        "beta",
        "scale",
        "g",
        "b",
        "w",
        "kernel",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "weight_ih",
        "weight_hh",
        "bias_ih",
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_hh_l0_reverse",
        "weight_hr_l0",
        "weight_g",
        "weight_v",
        "weight_orig",
        "weight_mask",
        "weight_u",
        "parametrizations",
        "original0",
        "original1",
        "lora_A",
        "lora_B",
        "lora",
        "down",
        "up",
        "alpha",
        "in_proj_weight",
        "in_proj_bias",
        "q_proj_weight",
        "qweight",
        "scales",
        "module",
        "_module",
        "base_layer",
        "0",
        "1",
        "2",
        "3",
        "²",
        "critic_target",
        "ema_model",
        "target",
        "mlp_extractor",
        "policy_net",
        "action_net",
        "value_net",
        "features_extractor",
        "linear",
        "cnn",
        "latent_pi",
        "mu",
        "log_std",
        "q_net",
        "conv1",
        "bn1",
        "conv2",
        "fc1",
        "fc2",
        "head",
        "state_linearity",
        "input_linearity",
        "layers",
        "attn",
        "norm",
        "up_proj",
        "down_proj",
        "embed",
        "#",
        "a/b",
    ]
) | st.text(max_size=6)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 16]), max_size=6).map(tuple)
DTYPES = st.sampled_from(["float32", "bfloat16", "int64", "bool", "complex64", "qint8", "float8_e4m3fn"])
TABLES = st.dictionaries(st.lists(WORDS, min_size=1, max_size=4).map(".".join), st.tuples(SHAPES, DTYPES), max_size=30)


@settings(max_examples=400, deadline=None)
@given(TABLES)
def test_every_tensor_belongs_to_exactly_one_layer(shapes):
    layers = infer_layers(shapes)
    assert sorted(name for layer in layers for name in layer.parts.values()) == sorted(shapes)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert all(names)
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        assert isinstance(layer, Outline)
        assert layer.following == (layer.followers[0] if layer.followers else None)
        assert not (layer.is_output and layer.followers)
        for follower in layer.followers:
            assert by_name[follower].previous is not None
        if layer.previous is not None:
            assert layer.name in by_name[layer.previous].followers


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(WORDS, min_size=1, max_size=4).map(".".join))
def test_any_name_may_be_given(name):
    assert is_target(name) == (online_name(name) is not None)


@pytest.mark.parametrize(
    "element",
    ["attn.", "target.", "net.", "q_", "lora_A.", "_embedder_", "head_", "recip_", "module.", "parametrizations.", "/"],
)
def test_names_without_end_take_no_time_without_end(element):
    name = element * 30_000
    shapes = {
        f"{name}x.weight": ((8, 4), "float32"),
        f"{name}x.bias": ((8,), "float32"),
        f"{name}targ": ((), "float32"),
    }
    started = time.process_time()
    layers = infer_layers(shapes)
    assert sorted(tensor for layer in layers for tensor in layer.parts.values()) == sorted(shapes)
    online_name(f"{name}targ", ())
    assert time.process_time() - started < 2.0, "measured: below 0.2 s"


@pytest.mark.parametrize(
    "names",
    [
        [f"layers.{number}.mlp.fc{part}.weight" for number in range(5000) for part in (1, 2)],
        [f"net.{number}.weight" for number in range(10000)],
        [f"fc{number}.weight" for number in range(1, 10001)],
        [f"critic_{number}.{part}.weight" for number in range(5000) for part in (0, 2)],
        [f"conv{number}.{'weight' if number % 2 else 'bias'}" for number in range(10000)],
    ],
    ids=["blocks", "sequential", "numbered", "components", "mixed"],
)
def test_ten_thousand_tensors_take_a_fraction_of_a_second(names):
    shapes = {name: ((64, 64) if name.endswith("weight") else (64,), "float32") for name in names}
    started = time.process_time()
    assert len(infer_layers(shapes)) == 10000
    assert time.process_time() - started < 2.0, "measured: 0.2 s; the rest is allowance for a busy machine"


# --- the corpus -----------------------------------------------------------------------------------------------------


def test_published_agents_have_their_heads_and_chains(corpus):
    agents = sorted(corpus.glob("rl-trained-agents/*/*/*.zip"))
    assert len(agents) >= 20
    for path in agents:
        with zipfile.ZipFile(path) as archive, archive.open("policy.pth") as member:
            state = torch.load(member, map_location="cpu", weights_only=True)
        layers = read({name: (tuple(tensor.shape), "float32") for name, tensor in state.items()})
        assert {layer.kind for layer in layers.values()} <= {Kind.LINEAR, Kind.PARAMETER}, path
        for name, layer in layers.items():
            if layer.kind is Kind.LINEAR:
                assert layer.is_output == (layer.following is None), (path, name)
