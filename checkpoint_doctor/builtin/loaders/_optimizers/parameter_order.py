"""The order of a model's parameters, where the file has sorted them by name, as safetensors does.

An optimizer's positions follow ``model.parameters()``: a module's own parameters, then those of its submodules, in the
order in which the code assigned them. Names show the modules, and numbers their order in lists; the order of the others
is known for the architectures of the transformers library. Where it is not, every order is possible that gives modules
of the same place the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from math import factorial

from checkpoint_doctor.checkpoint import Tensor

MOST_ORDERS = 720
"""Possible orders beyond which none is tried; six modules of unknown order have as many."""

_PARAMETERS = (
    "weight", "bias", "in_proj_weight", "in_proj_bias", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0",
    "lora_A", "lora_B",
)  # fmt: skip
"""The order within modules of ``torch.nn``, and of PEFT's low-rank matrices."""

_ARCHITECTURES: Mapping[str, str] = {
    "bert roberta xlm-roberta camembert deberta-v2 mpnet distilbert": (
        "embeddings encoder word_embeddings position_embeddings token_type_embeddings attention intermediate self "
        "output query key value dense bert transform predictions seq_relationship out_proj roberta layer_norm "
        "deberta pooler cls query_proj key_proj value_proj q k v o mpnet lm_head layer relative_attention_bias "
        "attn LayerNorm lin1 lin2 distilbert qa_outputs vocab_transform vocab_layer_norm vocab_projector "
        "transformer sa_layer_norm ffn output_layer_norm q_lin k_lin v_lin out_lin pre_classifier classifier"
    ),
    "gpt2 gpt_neo gptj codegen": (
        "transformer qa_outputs score classifier c_fc wte wpe h ln_f ln_1 attn ln_2 mlp c_attn c_proj k_proj "
        "v_proj q_proj lm_head fc_in fc_out qkv_proj out_proj"
    ),
    "llama mistral mixtral qwen2 qwen3 gemma gemma2 phi cohere olmo2 stablelm starcoder2 granite smollm3": (
        "gate_proj up_proj down_proj model lm_head embed_tokens layers norm self_attn mlp q_proj k_proj v_proj "
        "o_proj transformer qa_outputs score gate experts block_sparse_moe input_layernorm "
        "post_attention_layernorm w1 w2 w3 q_norm k_norm pre_feedforward_layernorm post_feedforward_layernorm fc1 "
        "fc2 final_layernorm dense c_fc c_proj"
    ),
    "phi3": (
        "model lm_head embed_tokens layers norm self_attn mlp input_layernorm post_attention_layernorm score "
        "gate_up_proj down_proj o_proj qkv_proj"
    ),
    "bart mbart pegasus marian whisper opt": (
        "k_proj v_proj q_proj embed_tokens self_attn self_attn_layer_norm encoder_attn encoder_attn_layer_norm "
        "fc1 fc2 shared encoder decoder model qa_outputs classification_head dense out_proj conv1 conv2 "
        "embed_positions final_layer_norm layers layernorm_embedding layer_norm projector classifier score"
    ),
    "t5 mt5": (
        "shared encoder decoder dense out_proj transformer classifier wi block final_layer_norm q k v o "
        "relative_attention_bias DenseReluDense SelfAttention EncDecAttention layer_norm qa_outputs "
        "classification_head wi_0 wi_1 wo lm_head"
    ),
    "vit deit beit dinov2": (
        "query key value embeddings encoder layernorm pooler cls_token vit distillation_token mask_token "
        "position_embeddings patch_embeddings deit decoder cls_classifier distillation_classifier lambda_1 "
        "lambda_2 beit fc1 fc2 norm1 attention intermediate output layernorm_before layernorm_after layer_scale1 "
        "norm2 mlp layer_scale2 dinov2 classifier"
    ),
    "clip": (
        "k_proj v_proj q_proj out_proj token_embedding logit_scale text_model vision_model visual_projection "
        "text_projection embeddings pre_layrnorm encoder post_layernorm class_embedding patch_embedding "
        "position_embedding self_attn layer_norm1 mlp layer_norm2 fc1 fc2 classifier final_layer_norm"
    ),
    "wav2vec2 hubert": (
        "k_proj v_proj q_proj out_proj parametrizations original0 original1 masked_spec_embed conv pos_conv_embed "
        "attention layer_norm projection layers feed_forward final_layer_norm intermediate_dense output_dense "
        "codevectors weight_proj wav2vec2 quantizer project_hid project_q hubert projector tdnn feature_extractor "
        "feature_projection encoder classifier objective lm_head"
    ),
}
"""Model types of transformers to the order of the modules and parameters that stand beside each other in them.

Read from ``named_parameters()`` of all classes of these types in transformers 4.57; no two of a line contradict it.
"""
_ROBERTA = ("word_embeddings", "token_type_embeddings", "LayerNorm", "position_embeddings")
_LATER: Mapping[str, Sequence[tuple[str, ...]]] = {
    "roberta": (_ROBERTA,),
    "xlm-roberta": (_ROBERTA, ("lm_head", "roberta"), ("classifier", "roberta")),
    "camembert": (_ROBERTA, ("lm_head", "roberta"), ("classifier", "roberta")),
    "deit": (("cls_token", "position_embeddings", "distillation_token"),),
}
"""What stands beside each other in another order from transformers 5 on; read from 5.23."""
_ORDERS = {kind: words.split() for kinds, words in _ARCHITECTURES.items() for kind in kinds.split()}


def possible_orders(models: Mapping[str, Sequence[Tensor]], architecture: str) -> list[Mapping[str, Sequence[Tensor]]]:
    """Return the tensors of each model in every order that they may have; nothing where there are too many.

    Args:
        models: name of each model to its tensors, in any order.
        architecture: the model type by which transformers calls it, empty where it is unknown.
    """
    known = [*_PARAMETERS, *_ORDERS.get(architecture, ())]
    later = _LATER.get(architecture, ())
    trees = {name: _grow([tensor.name.removeprefix(f"{name}/") for tensor in each]) for name, each in models.items()}
    places = sorted({place for tree in trees.values() for place in _places(tree, "")}, key=repr)
    choices = [
        list(dict.fromkeys((*_arrangements(siblings, known), *_arrange_later(siblings, later))))
        for _, siblings in places
    ]
    count = 1
    for each in choices:
        count *= len(each)
        if not 0 < count <= MOST_ORDERS:
            return []
    return [
        {
            name: _arrange(models[name], name, list(_walk(tree, "", dict(zip(places, chosen, strict=True)), "")))
            for name, tree in trees.items()
        }
        for chosen in product(*choices)
    ]


_Tree = dict[str, "_Tree"]
"""Parts of names to what follows them; parameters have nothing behind them."""
_Place = tuple[str, frozenset[str]]
"""The last word of a module's name, and what is in it beside numbers: its parameters, or its submodules."""


def _grow(names: Sequence[str]) -> _Tree:
    root: _Tree = {}
    for name in names:
        node = root
        for part in name.split("."):
            node = node.setdefault(part, {})
    return root


def _split(tree: _Tree) -> tuple[list[str], list[str], list[str]]:
    """Return the names of a module's parameters, of its numbered submodules in order, and of the others."""
    parameters = [name for name, below in tree.items() if not below]
    numbered = sorted((name for name, below in tree.items() if below and name.isdecimal()), key=int)
    return parameters, numbered, [name for name, below in tree.items() if below and not name.isdecimal()]


def _places(tree: _Tree, word: str) -> Iterator[_Place]:
    parameters, numbered, others = _split(tree)
    for siblings in (parameters, others):
        if len(siblings) > 1:
            yield word, frozenset(siblings)
    for name in (*numbered, *others):
        yield from _places(tree[name], word if name.isdecimal() else name)


def _arrangements(siblings: frozenset[str], known: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the orders in which siblings may come that keep the known order; nothing where there are too many."""
    ordered = [name for name in dict.fromkeys(known) if name in siblings]
    unknown = sorted(siblings.difference(ordered))
    if not unknown:
        return [tuple(ordered)]
    if factorial(len(siblings)) // factorial(len(ordered)) > MOST_ORDERS or len(siblings) > 9:
        return []
    rank = {name: number for number, name in enumerate(ordered)}
    return [each for each in permutations(sorted(siblings)) if [name for name in each if name in rank] == ordered]


def _arrange_later(siblings: frozenset[str], later: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the order in which siblings come in newer versions, where it is another one."""
    return [tuple(name for name in order if name in siblings) for order in later if siblings <= set(order)]


def _walk(tree: _Tree, word: str, chosen: Mapping[_Place, tuple[str, ...]], path: str) -> Iterator[str]:
    parameters, numbered, others = _split(tree)
    for name in chosen.get((word, frozenset(parameters)), parameters):
        yield f"{path}{name}"
    # A module has either numbers or words below it; where it has both, numbers come first in the libraries' own code.
    for name in (*numbered, *chosen.get((word, frozenset(others)), others)):
        yield from _walk(tree[name], word if name.isdecimal() else name, chosen, f"{path}{name}.")


def _arrange(tensors: Sequence[Tensor], model: str, names: Sequence[str]) -> list[Tensor]:
    by_name = {tensor.name.removeprefix(f"{model}/"): tensor for tensor in tensors}
    return [by_name[name] for name in names]
