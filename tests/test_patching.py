"""New values reach every container, element type and layout, and nothing else changes: PyTorch reads it back."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patched_files import by_name, find_patches, patched, refusal
from torch_files import CONTAINERS, assert_equal, comparable, opened, saved

from checkpoint_doctor.builtin.loaders.torch.loader import loader

torch = pytest.importorskip("torch")
nn = torch.nn

EIGHT_BITS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
FLOATING = ["float64", "float32", "float16", "bfloat16", *EIGHT_BITS]
COMPLEX = ["complex64", "complex128", "complex32"]
WHOLE = ["int64", "int32", "int16", "int8", "uint8", "bool"]

State = dict[str, "torch.Tensor"]


def swapped(state: State) -> bytes:
    """Return a file as a big-endian machine writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(state))) as original, zipfile.ZipFile(buffer, "w") as foreign:
        for number, tensor in enumerate(state.values()):
            width = tensor.element_size() // (2 if tensor.dtype.is_complex else 1)
            content = np.frombuffer(original.read(f"archive/data/{number}"), f"u{width}").byteswap().tobytes()
            foreign.writestr(f"archive/data/{number}", content)
        foreign.writestr("archive/data.pkl", original.read("archive/data.pkl"))
        foreign.writestr("archive/byteorder", b"big")
        foreign.writestr("archive/version", b"3\n")
    return buffer.getvalue()


FORMS = {
    "zip": saved,
    "legacy": lambda state: saved(state, _use_new_zipfile_serialization=False),
    "protocol 4": lambda state: saved(state, pickle_protocol=4),
    "big-endian": swapped,
    "pickle": lambda state: pickle.dumps(state, 4),
}


def loaded(content: bytes) -> State:
    if b"_load_from_bytes" in content[:200]:
        return pickle.loads(content)
    return torch.load(io.BytesIO(content), weights_only=b"\x80\x04" not in content[:100])


def assert_same(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        wanted = comparable(tensor)
        assert np.array_equal(comparable(found[name]), wanted, equal_nan=wanted.dtype.kind in "fc"), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [*FLOATING, *COMPLEX, *WHOLE])
def test_chosen_entries_get_their_values_in_every_format_and_type(dtype: str, form: str) -> None:
    kind = getattr(torch, dtype)
    numbers = torch.tensor([[1.0, 2.0, 0.5], [4.0, 0.25, 8.0]])
    state = {"before": torch.ones(3).to(kind), "weight": numbers.to(kind), "after": torch.ones(2).to(kind)}
    content = FORMS[form](state)
    if dtype in WHOLE:
        wanted = np.array([[1, 0, 0], [1, 1, 0]])
    elif dtype in COMPLEX:
        wanted = np.array([[1, 0.3 - 2j, 0.5], [4, 0.7j, 8]])
    else:
        wanted = np.array([[1, 0.30001, 0.5], [4, -0.007, 1e-30]])
    state["weight"] = torch.tensor(wanted).to(kind)
    result = patched(loader, content, by_name({"weight": wanted}))
    if result.startswith(b"PK"):
        assert zipfile.ZipFile(io.BytesIO(result)).testzip() is None
    if dtype in (*EIGHT_BITS, "complex32") and form in ("legacy", "pickle", "big-endian"):
        assert_equal(opened(result), state)  # PyTorch writes these and does not read them
    else:
        assert_same(loaded(result), state)


def test_a_single_entry_is_four_bytes_and_a_whole_tensor_is_one_patch() -> None:
    state = {"weight": torch.arange(1.0, 3_000_001.0), "bias": torch.zeros(3)}
    content = saved(state, _use_new_zipfile_serialization=False)
    one = state["weight"].numpy().copy()
    one[1234] = -1.0
    patch, *others = find_patches(loader, content, by_name({"weight": one}))
    assert (len(patch.new), others) == (4, [])
    assert patch.new == np.float32(-1).tobytes()
    assert "weight" in patch.reason
    patch, *others = find_patches(loader, content, by_name({"weight": np.zeros(3_000_000)}))
    assert (len(patch.new), others) == (12_000_000, [])


def test_far_entries_are_patches_of_their_own() -> None:
    values = np.zeros(1000, np.float32)
    values[[10, 500, 990]] = 1.0
    content = saved({"weight": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    assert [len(each.new) for each in find_patches(loader, content, by_name({"weight": values}))] == [4, 4, 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "float16", "float8_e5m2", "int64"])
def test_values_that_round_to_what_is_there_change_nothing(kind: str, dtype: type) -> None:
    numbers = torch.tensor([0.1, -0.2, 3.0, float("nan"), -0.0]) if kind != "int64" else torch.arange(2**24, 2**24 + 5)
    content = saved({"weight": numbers.to(getattr(torch, kind))})
    checkpoint_values = comparable(numbers.to(getattr(torch, kind))).astype(dtype)
    assert not find_patches(loader, content, by_name({"weight": checkpoint_values}))


def test_what_is_kept_of_a_wide_tensor_stays_to_the_bit() -> None:
    state = {"weight": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)}
    narrow = state["weight"].numpy().astype(np.float32)
    narrow[1] = 7.0
    found = loaded(patched(loader, saved(state), by_name({"weight": narrow})))["weight"]
    assert found.tolist() == [0.1, 7.0, 0.3]


def test_a_nan_is_replaced_and_can_be_written() -> None:
    state = {"weight": torch.tensor([1.0, float("nan"), 3.0])}
    found = loaded(patched(loader, saved(state), by_name({"weight": np.array([float("nan"), 2.0, 3.0])})))["weight"]
    assert torch.equal(found.isnan(), torch.tensor([True, False, False]))
    assert found[1:].tolist() == [2.0, 3.0]


VIEWS = {
    "transposed": lambda flat: flat[:12].view(3, 4).t(),
    "strided": lambda flat: flat[1::5],
    "column": lambda flat: flat[:20].view(5, 4)[:, 2],
    "sliced": lambda flat: flat[7:13].view(2, 3),
    "channels last": lambda flat: flat.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "permuted": lambda flat: flat.view(2, 3, 4).permute(2, 0, 1),
    "scalar": lambda flat: flat[5],
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize("layout", VIEWS)
def test_a_view_is_written_where_its_entries_lie(layout: str, kind: str, container: str) -> None:
    flat = torch.arange(24.0).to(getattr(torch, kind))
    state = {"all": flat, "view": VIEWS[layout](flat)}
    content = saved(state, _use_new_zipfile_serialization=CONTAINERS[container])
    wanted = comparable(state["view"]).copy()
    wanted[...] = np.where(np.arange(wanted.size).reshape(wanted.shape) % 3 == 0, 100.0, wanted)
    result = loaded(patched(loader, content, by_name({"view": wanted})))
    state["view"].copy_(torch.tensor(wanted))
    assert_same(result, state)


def test_the_eight_views_of_a_flattened_lstm_change_together() -> None:
    torch.manual_seed(0)
    weights = dict(nn.LSTM(3, 4, 2).state_dict())
    flat = torch.cat([tensor.reshape(-1) for tensor in weights.values()])
    state, start = {}, 0
    for name, tensor in weights.items():
        state[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    content = saved(state)
    assert content.count(b"archive/data/0") == 2  # one storage: a local header and a directory entry
    forget = {}
    for name in ("bias_ih_l0", "bias_hh_l0", "bias_ih_l1", "bias_hh_l1"):
        values = state[name].numpy().copy()
        values[4:8] = 1.0 if "_ih" in name else 0.0
        forget[name] = values
    result = loaded(patched(loader, content, by_name(forget)))
    for name, values in forget.items():
        state[name].copy_(torch.tensor(values))
    assert_same(result, state)


def test_tied_tensors_change_once_and_may_be_named_once_or_twice() -> None:
    weight = torch.arange(6.0).view(2, 3)
    content = saved({"embedding": weight, "head": weight, "other": torch.ones(2)})
    new = np.full((2, 3), 9.0)
    once = patched(loader, content, by_name({"embedding": new}))
    assert once == patched(loader, content, by_name({"head": new, "embedding": new}))
    assert_same(loaded(once), {"embedding": torch.tensor(new), "head": torch.tensor(new), "other": torch.ones(2)})


def test_tensors_that_share_bytes_and_disagree_are_refused() -> None:
    weight = torch.arange(6.0).view(2, 3)
    content = saved({"embedding": weight, "head": weight, "row": weight[1], "repeated": weight[0, :1].expand(4)})
    both = by_name({"embedding": np.zeros((2, 3)), "head": np.ones((2, 3))})
    assert {"embedding", "head"} <= set(refusal(loader, content, both).message.replace(",", "").split())
    stale = by_name({"embedding": np.full((2, 3), 8.0), "row": weight[1].numpy()})
    assert "disagree" in refusal(loader, content, stale).message
    repeated = by_name({"repeated": np.arange(4.0)})
    assert refusal(loader, content, repeated).message.startswith("repeated shares bytes with itself")
    alike = loaded(patched(loader, content, by_name({"repeated": np.full(4, 5.0)})))
    assert alike["embedding"][0].tolist() == [5.0, 1.0, 2.0]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """A shape, strides and an offset within 40 elements; strides of 0 and overlapping ones included."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=3)))
    strides = tuple(draw(st.integers(0, 6)) for _ in shape)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return shape, strides, draw(st.integers(0, 79 - reach))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(layouts(), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from(list(CONTAINERS)),
    st.randoms(use_true_random=False),
)
def test_any_views_get_any_values_that_can_hold_together(views, dtype, container, random) -> None:
    flat = torch.arange(80.0).to(dtype)
    state = {str(number): torch.as_strided(flat, *view) for number, view in enumerate(views)}
    content = saved({**state, "flat": flat}, _use_new_zipfile_serialization=CONTAINERS[container])
    wanted = {}
    shall = flat.clone()
    for place in random.sample(range(80), random.randrange(80)):
        shall[place] = -float(place + 1)
    for name, (shape, strides, offset) in zip(state, views, strict=True):
        values = torch.as_strided(shall, shape, strides, offset).double().numpy().copy()
        if values.size and random.random() < 0.3:
            values[np.unravel_index(random.randrange(values.size), values.shape)] = 77.0
        wanted[name] = values
    expected = np.arange(80.0)
    for (shape, strides, offset), values in zip(views, wanted.values(), strict=True):
        steps = tuple(stride * 8 for stride in strides)
        np.lib.stride_tricks.as_strided(expected[offset:], shape, steps)[...] = values
    fits = all(
        np.array_equal(
            np.lib.stride_tricks.as_strided(expected[offset:], shape, tuple(stride * 8 for stride in strides)), values
        )
        for (shape, strides, offset), values in zip(views, wanted.values(), strict=True)
    )
    if not fits:
        assert "disagree" in refusal(loader, content, by_name(wanted)).message
        return
    result = loaded(patched(loader, content, by_name(wanted)))
    assert result["flat"].double().tolist() == expected.tolist()


ARRAYS = {
    "large.weight": np.arange(600, dtype=np.float32).reshape(20, 30),
    "large.bias": np.array([0.5], np.float32),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian": np.arange(5, dtype=">f4"),
    "half": np.arange(5, dtype=np.float16),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_in_a_pickle_are_changed_where_they_lie(protocol: int) -> None:
    new = {name: array.astype(float) for name, array in ARRAYS.items()}
    for values in new.values():
        values.reshape(-1)[::3] = -1.5
    result = pickle.loads(patched(loader, pickle.dumps(dict(ARRAYS), protocol), by_name(new)))
    for name, array in ARRAYS.items():
        assert result[name].dtype.name == array.dtype.name
        assert np.array_equal(result[name], new[name])


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_numbers_stored_as_text_are_refused_with_the_reason(protocol: int) -> None:
    state = {"tensor": torch.ones(3), "array": np.ones(3)}
    for name in state:
        error = refusal(loader, pickle.dumps(state, protocol), by_name({name: np.zeros(3)}))
        assert error.message == f"{name} cannot be changed in place: its pickle stores its numbers as text or objects"
        assert "torch.save" in error.hint


def test_values_that_the_type_cannot_say_are_refused() -> None:
    state = {
        "half": torch.ones(2, dtype=torch.float16),
        "count": torch.ones(2, dtype=torch.int8),
        "real": torch.ones(2),
    }
    content = saved(state)
    assert "1000000.0 cannot be written" in refusal(loader, content, by_name({"half": np.array([1.0, 1e6])})).message
    assert "300" in refusal(loader, content, by_name({"count": np.array([1, 300])})).message
    assert "0.5" in refusal(loader, content, by_name({"count": np.array([1, 0.5])})).message
    assert "real" in refusal(loader, content, by_name({"real": np.array([1, 1j])})).message
    assert "shape [3]" in refusal(loader, content, by_name({"real": np.ones(3)})).message
