"""The messages of an ONNX model (``onnx.proto``): its graph, the nodes that read weights, and the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from msgspec import Struct, field

from checkpoint_doctor.builtin.loaders.onnx.wire import LENGTH, VARINT, Field, Message
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source
from checkpoint_doctor.sources.budget import OBJECTS, TENSORS
from checkpoint_doctor.text import shown

MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field numbers of ``ModelProto`` and their wire types."""
GRAPH = 7
PRODUCER, PRODUCER_VERSION = 2, 3
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15
MOST_FIELDS = 10_000
"""Fields of a model. It has one graph; only functions and metadata are repeated."""
MOST_AXES = 64
LARGEST_SIZE = 1 << 62
SINGLE_NUMBER = 5
"""What a number with a field of its own takes of the budget of objects; every writer packs them into one field."""
EXTERNAL = 1
"""``TensorProto.DataLocation``: the bytes are in another file."""
CONSTANT = "Constant"


class Node(Struct):
    """A node of the graph: an operator, and the names of what it reads and writes."""

    operator: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    is_second_transposed: bool = False
    """``Gemm``'s ``transB``: the weight is stored outputs first."""
    tensor: TensorEntry | None = None
    """The value of a ``Constant``."""


class TensorEntry(Struct):
    """A ``TensorProto``: its name, type and shape, and where its numbers are."""

    message: Message
    name: str = ""
    type: int = 0
    shape: tuple[int, ...] = ()
    raw: Message | None = None
    """The bytes of all elements, where they are stored as such."""
    typed: dict[int, list[Field]] = field(default_factory=dict)
    """The fields of numbers: ``float_data`` (4), ``int32_data`` (5), ``int64_data`` (7), ``double_data`` (10),
    ``uint64_data`` (11)."""
    external: dict[str, str] = field(default_factory=dict)
    """``location``, ``offset`` and ``length`` of bytes in another file."""
    is_external: bool = False
    is_constant: bool = False
    """True for the value of a ``Constant`` node, which mostly is a number or a shape and no weight."""


class Model(Struct):
    """What is read of a model."""

    producer: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: list[TensorEntry] = field(default_factory=list)
    """Initializers, and the values of ``Constant`` nodes."""
    sparse: int = 0
    """Number of sparse initializers."""


def is_model(source: Source) -> bool:
    """Tell whether a file is a sequence of fields of an ONNX model, with a graph among them.

    A file that ends inside its graph is one, too, if the graph begins as one. Raises ``UnreadableCheckpoint`` only
    where the file cannot be read.
    """
    has_graph = False
    try:
        for count, each in enumerate(Message(source, 0, source.size).fields()):
            if MODEL_FIELDS.get(each.number) != each.wire or count > MOST_FIELDS:
                return False
            has_graph |= each.number == GRAPH
    except UnreadableCheckpoint:
        return _ends_inside_graph(source)
    return has_graph


def _ends_inside_graph(source: Source) -> bool:
    beginning = source.read(0, min(1 << 12, source.size))
    at, key = 0, 0
    while at < len(beginning):
        key, at = beginning[at], at + 1
        if MODEL_FIELDS.get(key >> 3) != key & 7:
            return False
        length = shift = 0
        while at < len(beginning):
            byte, at = beginning[at], at + 1
            length, shift = length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        if key >> 3 == GRAPH:
            # A graph begins with its first node, its name, or its first initializer, which end inside it.
            first = beginning[at : at + 2]
            is_begun = len(first) == 2 and first[0] in (0x0A, 0x12, 0x2A) and first[1] > 0
            return is_begun and length > source.size - at
        at += length if key & 7 == LENGTH else 0
    return False


def read_model(source: Source) -> Model:
    """Read the graph of a model; the numbers of its tensors stay in the file.

    Raises:
        UnreadableCheckpoint: the file is truncated or damaged.
    """
    model = Model()
    whole = Message(source, 0, source.size)
    for each in whole.fields():
        if each.number in (PRODUCER, PRODUCER_VERSION) and each.wire == LENGTH:
            model.producer = f"{model.producer} {whole.text(each)}".strip()
        elif each.number == GRAPH:
            _read_graph(whole.message(each), model)
    return model


def _read_graph(graph: Message, model: Model) -> None:
    budget = graph.source.budget
    for each in graph.fields():
        budget.spend(OBJECTS, 1)
        if each.number == NODE:
            node = _read_node(graph.message(each))
            model.nodes.append(node)
            if node.tensor is not None and node.outputs:
                node.tensor.name, node.tensor.is_constant = node.outputs[0], True
                model.tensors.append(node.tensor)
        elif each.number == INITIALIZER:
            model.tensors.append(_read_tensor(graph.message(each)))
        elif each.number == SPARSE_INITIALIZER:
            model.sparse += 1


def _read_node(message: Message) -> Node:
    node, attributes = Node(), []
    for each in message.fields():
        if each.number == 1:
            node.inputs.append(message.text(each))
        elif each.number == 2:
            node.outputs.append(message.text(each))
        elif each.number == 3:
            node.name = message.text(each)
        elif each.number == 4:
            node.operator = message.text(each)
        elif each.number == 5:
            attributes.append(message.message(each))
    for attribute in attributes:
        if node.operator == "Gemm":
            node.is_second_transposed |= _read_flag(attribute, "transB")
        elif node.operator == CONSTANT:
            node.tensor = next(_find_tensors(attribute), node.tensor)
    return node


def _read_flag(attribute: Message, name: str) -> bool:
    fields = list(attribute.fields())
    named = any(each.number == 1 and each.wire == LENGTH and attribute.text(each) == name for each in fields)
    return named and any(each.number == 3 and each.wire == VARINT and each.value for each in fields)


def _find_tensors(attribute: Message) -> Iterator[TensorEntry]:
    for each in attribute.fields():
        if each.number == 5 and each.wire == LENGTH:
            yield _read_tensor(attribute.message(each))


def _read_tensor(message: Message) -> TensorEntry:
    message.source.budget.spend(TENSORS, 1)
    tensor, axes = TensorEntry(message), []
    for each in message.fields():
        if each.number == 1:
            axes += [each.value] if each.wire == VARINT else [int(size) for size in message.varints(each)]
        elif each.number == 2:
            tensor.type = each.value
        elif each.number == 8:
            tensor.name = message.text(each)
        elif each.number == 9:
            tensor.raw = message.message(each)
        elif each.number in (4, 5, 7, 10, 11):
            if each.wire != LENGTH:
                message.source.budget.spend(OBJECTS, SINGLE_NUMBER)
            tensor.typed.setdefault(each.number, []).append(each)
        elif each.number == 13:
            key, value = _read_pair(message.message(each))
            tensor.external[key] = value
        elif each.number == 14:
            tensor.is_external = each.value == EXTERNAL
    if len(axes) > MOST_AXES or prod(size for size in axes if size) > LARGEST_SIZE:
        raise UnreadableCheckpoint(
            f"{message.source.name} is damaged: the shape of tensor {shown(tensor.name)} is too large",
            "copy or download it again",
        )
    tensor.shape = tuple(axes)
    return tensor


def _read_pair(message: Message) -> tuple[str, str]:
    texts = {each.number: message.text(each) for each in message.fields() if each.wire == LENGTH}
    return texts.get(1, ""), texts.get(2, "")
