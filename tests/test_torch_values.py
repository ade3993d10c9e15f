"""Every element type and every kind of view, number by number."""

from __future__ import annotations

import pytest
from torch_files import CONTAINERS, assert_equal, names, opened, saved

torch = pytest.importorskip("torch")
nn = torch.nn


def all_types() -> list[torch.dtype]:
    wanted = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64"
    wanted += " complex128 complex32 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
    return [getattr(torch, name) for name in wanted.split() if hasattr(torch, name)]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", all_types(), ids=str)
def test_every_element_type_reads_with_its_values(dtype: torch.dtype, container: str) -> None:
    numbers = torch.tensor([[1.0, 2.0, 0.5], [4.0, 0.25, 8.0]])
    expected = {
        "weight": numbers.to(dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
    }
    content = saved(expected, _use_new_zipfile_serialization=CONTAINERS[container])
    assert_equal(opened(content), expected)


def test_quantized_tensors_show_their_stored_integers() -> None:
    numbers = torch.tensor([[-1.0, 0.0], [0.5, 1.0]])
    expected = {
        "signed": torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8),
        "unsigned": torch.quantize_per_tensor(numbers, 0.1, 10, torch.quint8),
        "wide": torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint32),
        "by_channel": torch.quantize_per_channel(
            numbers, torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.qint8
        ),
    }
    assert_equal(opened(saved(expected)), expected)


def test_conjugated_and_negated_views_show_what_torch_shows() -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    expected = {"conjugate": numbers.conj(), "imaginary": numbers.clone().conj().imag}
    assert_equal(opened(saved(expected)), expected)


@pytest.mark.parametrize("container", CONTAINERS)
def test_views_of_one_storage_are_read_and_recognised(container: str) -> None:
    flat = torch.arange(24.0)
    expected = {
        "first": flat[:6].view(2, 3),
        "second": flat[6:12].view(2, 3),
        "transposed": flat[:6].view(2, 3).t(),
        "strided": flat[::5],
        "tied": flat[:6].view(2, 3),
        "expanded": flat[3:4].expand(4, 3),
    }
    checkpoint = opened(saved(expected, _use_new_zipfile_serialization=CONTAINERS[container]))
    assert_equal(checkpoint, expected)
    by_name = checkpoint.by_name
    assert len({tensor.storage for tensor in checkpoint.tensors}) == 1
    assert by_name["first"].is_tied_to(by_name["tied"])
    assert not by_name["first"].is_tied_to(by_name["second"])
    assert by_name["second"].storage_range == (24, 48)


def test_flattened_recurrent_weights_and_tied_embeddings_are_read() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4, 2, bidirectional=True), "embedding": nn.Embedding(5, 4)})
    model["head"] = nn.Linear(4, 5)
    model["head"].weight = model["embedding"].weight
    checkpoint = opened(saved(model.state_dict()))
    assert_equal(checkpoint, model.state_dict())
    assert checkpoint.by_name["head.weight"].is_tied_to(checkpoint.by_name["embedding.weight"])


def test_tensors_without_readable_values_are_reported_as_skipped() -> None:
    content = saved(
        {
            "sparse": torch.eye(3).to_sparse(),
            "rows": torch.eye(3).to_sparse_csr(),
            "meta": torch.empty(3, 4, device="meta"),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "weight": torch.ones(2),
        }
    )
    checkpoint = opened(content)
    assert names(checkpoint) == ["weight"]
    assert {each.what for each in checkpoint.skipped} == {"sparse", "rows", "meta", "nested"}
    assert all(each.why for each in checkpoint.skipped)


def test_a_view_that_claims_a_trillion_elements_is_not_followed() -> None:
    checkpoint = opened(saved({"bomb": torch.zeros(1).expand(1 << 20, 1 << 20), "weight": torch.ones(2)}))
    assert names(checkpoint) == ["weight"]
    assert "its 4 bytes would take" in checkpoint.skipped[0].why
