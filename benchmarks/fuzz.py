"""Feeds damaged, lying and random files to every loader and counts what must never happen.

Run as ``python -m benchmarks.fuzz [--inputs 50000] [--seed 0] [--from .onnx,.gguf]``. Each input is offered to every
loader in this process: ``recognizes``, ``open``, and one pass over every tensor (the model's and the optimizers'). A
loader may refuse with a ``DoctorError``; any other exception, more than two seconds, or more than 500 MiB of memory is
a defect, printed with the number of the input. The same seed and number make the same input again: ``--only NUMBER``.

The inputs grow from small checkpoints of each format: truncated, bytes flipped, numbers replaced by extreme ones,
pieces moved; inside archives also with right checksums, so that damage reaches the readers behind them; and pickles
put together from instructions.
"""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import random
import resource
import signal
import struct
import sys
import time
import traceback
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from checkpoint_doctor.checkpoint import Checkpoint
from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.protocols import Loader
from checkpoint_doctor.sources import MemorySource
from checkpoint_doctor.statistics.tensors import measure

SLOWEST = 2.0
"""Seconds of processor time that one input may take: the machine may be busy otherwise."""
LARGEST = 500
"""MiB that the process may reach."""
EXTREMES = [0, 1, 7, 8, 64, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
ROOT = Path(__file__).parents[1]


class Hang(BaseException):
    """Raised into a loader that takes far too long."""


def seeds() -> dict[str, bytes]:
    """Return small, sound files of every format."""
    found = {path.name: path.read_bytes() for path in sorted((ROOT / "fixtures").glob("case_[1245]*.[zp][it]*"))}
    arrays = {"0.weight": np.ones((3, 4), np.float32), "0.bias": np.zeros(3, np.float32), "steps": np.array(7)}
    for protocol in range(6):
        found[f"arrays.{protocol}.pkl"] = pickle.dumps(OrderedDict(arrays), protocol)
    found.update(_torch_seeds())
    found.update(_safetensors_seeds(arrays))
    found.update(_other_seeds())
    return {name: content for name, content in found.items() if len(content) < 1 << 20}


def _torch_seeds() -> Iterator[tuple[str, bytes]]:
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.LSTM(3, 2))
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    flat = torch.arange(12.0)
    contents = {
        "state_dict": model.state_dict(),
        "training": {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3},
        "module": model,
        "views": {
            "a": flat[:4].view(2, 2).t(),
            "b": flat[::3],
            "c": flat.to(torch.bfloat16),
            "d": flat.to(torch.complex64),
        },
        "arrays": [np.ones(3), np.float64(2.0), torch.Size([1, 2])],
    }
    for name, content in contents.items():
        for kind, is_new in (("zip", True), ("legacy", False)):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=is_new)
            yield f"{name}.{kind}.pt", buffer.getvalue()
    for protocol in (0, 2, 4):
        yield f"tensors.{protocol}.pkl", pickle.dumps(dict(model.state_dict()), protocol)


def _safetensors_seeds(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    from safetensors.numpy import save

    yield "model.safetensors", save(dict(arrays), metadata={"format": "pt"})
    yield "index.json", b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors", "b": "../x"}}'


def _other_seeds() -> Iterator[tuple[str, bytes]]:
    """Yield models in the formats of other libraries than PyTorch, written byte by byte or by NumPy and h5py."""
    generator = np.random.default_rng(0)
    kernels = {f"Dense_{place}": generator.normal(0, 0.1, (8, 8)).astype(np.float32) for place in range(3)}
    for name, save in (("stored.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        buffer = io.BytesIO()
        save(buffer, **{f"{module}/kernel": kernel for module, kernel in kernels.items()})
        yield name, buffer.getvalue()
    yield "model.gguf", _write_gguf(kernels)
    yield "model.onnx", _write_onnx(kernels)
    yield "state.msgpack", _write_flax(kernels)
    try:
        import h5py
    except ImportError:
        return
    for name, options in (("plain", {}), ("packed", {"compression": "gzip"})):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for module, kernel in kernels.items():
                file.create_dataset(f"layers/{module}/vars/0", data=kernel, **options)
        yield f"{name}.weights.h5", buffer.getvalue()
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("metadata.json", '{"keras_version": "3.15.1"}')
            zipped.writestr("model.weights.h5", buffer.getvalue())
        yield f"{name}.keras", archive.getvalue()


def _write_gguf(kernels: Mapping[str, np.ndarray]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    settings = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    settings += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    header, content = struct.pack("<4sIQQ", b"GGUF", 3, len(kernels) + 1, 2) + settings, b""
    for name, kernel in kernels.items():
        header += text(f"{name}.weight") + struct.pack("<IQQIQ", 2, *reversed(kernel.shape), 0, len(content))
        content += kernel.tobytes()
    header += text("packed.weight") + struct.pack("<IQQIQ", 2, 32, 2, 8, len(content))
    return header + bytes(-len(header) % 32) + content + bytes(68)


def _write_onnx(kernels: Mapping[str, np.ndarray]) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number << 3 | 2, *([size & 0x7F | 0x80, size >> 7] if size > 127 else [size])]) + content

    graph = b""
    for name, kernel in kernels.items():
        graph += field(1, field(1, b"x") + field(1, name.encode()) + field(2, b"y") + field(4, b"MatMul"))
        graph += field(5, b"\x08\x08\x08\x08\x10\x01" + field(8, name.encode()) + field(9, kernel.tobytes()))
    graph += field(5, b"\x08\x03\x10\x07" + field(8, b"shape") + field(7, b"\x01\x80\x01\x05"))
    return b"\x08\x08" + field(2, b"fuzz") + field(7, graph)


def _write_flax(kernels: Mapping[str, np.ndarray]) -> bytes:
    def text(value: str) -> bytes:
        return bytes([0xA0 + len(value)]) + value.encode()

    def tree(leaf: str) -> bytes:
        found = bytes([0x80 + len(kernels)])
        for name, kernel in kernels.items():
            content = (
                b"\x93\x92\x08\x08" + text("float32") + b"\xc5" + struct.pack(">H", kernel.nbytes) + kernel.tobytes()
            )
            found += text(name) + b"\x81" + text(leaf) + b"\xc8" + struct.pack(">HB", len(content), 1) + content
        return found

    moments = b"\x83" + text("mu") + tree("kernel") + text("nu") + tree("kernel") + text("count") + b"\x07"
    return b"\x83" + text("step") + b"\x07" + text("params") + tree("kernel") + text("opt_state") + moments


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Return damaged bytes."""
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        if not damaged:
            break
        at = chance.randrange(len(damaged))
        match chance.randrange(9):
            case 0:
                del damaged[at:]
            case 1:
                damaged[at] ^= 1 << chance.randrange(8)
            case 2:
                damaged[at] = chance.randrange(256)
            case 3:
                width = chance.choice("BHIQ")
                number = chance.choice(EXTREMES) & (256 ** struct.calcsize(width) - 1)
                damaged[at : at + struct.calcsize(width)] = struct.pack("<" + width, number)
            case 4:
                del damaged[at : at + chance.choice([1, 2, 8, 100])]
            case 5:
                piece = damaged[at : at + chance.choice([1, 4, 40, 400])]
                damaged[at:at] = piece * chance.choice([1, 2, 50])
            case 6:
                damaged[at:at] = chance.randbytes(chance.choice([1, 3, 9]))
            case 7:
                other = chance.randrange(len(damaged))
                damaged[at : at + 20] = damaged[other : other + 20]
            case 8:
                digits = [place for place, byte in enumerate(damaged[:20_000]) if 48 <= byte <= 57]
                if digits:
                    damaged[chance.choice(digits)] = chance.choice(b"0123456789-e")
    return bytes(damaged)


def mutate_member(content: bytes, chance: random.Random) -> bytes:
    """Return an archive with one damaged member and right checksums, zipped again in any way."""
    try:
        original = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile:
        return mutate(content, chance)
    names = original.namelist()
    pickles = [name for name in names if name.endswith(".pkl") or name == "data"]
    chosen = chance.choice(pickles if pickles and chance.random() < 0.7 else names)
    inner = chance.random() < 0.7 and chosen.endswith(".pth")
    buffer = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            member = original.read(name)
            if name == chosen:
                member = mutate_member(member, chance) if inner else mutate(member, chance)
                if chance.random() < 0.05:
                    continue
            archive.writestr(name, member)
    return buffer.getvalue()


CODES = [code.code.encode("latin1") for code in pickletools.opcodes]
PIECES = [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_qtensor\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"ccollections\nOrderedDict\n",
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
    b"cnumpy\ndtype\nU\x02f4\x85R",
    b"cbuiltins\nlist\n",
    b"c_codecs\nencode\n",
    b"X\x07\x00\x00\x00storage",
    b"X\x05\x00\x00\x00state",
    b"X\x0c\x00\x00\x00param_groups",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ",
    b"(K\x01K\x02t",
    b"}q\x01",
    b"h\x01",
    b"s",
    b"R",
    b"b",
]


def assemble(chance: random.Random) -> bytes:
    """Return a pickle of instructions and words that torch files use."""
    pieces = [chance.choice(PIECES if chance.random() < 0.6 else CODES) for _ in range(chance.randrange(1, 60))]
    for place in range(len(pieces)):
        if chance.random() < 0.2:
            pieces[place] += chance.randbytes(chance.choice([1, 2, 4]))
    return b"\x80" + bytes([chance.randrange(6)]) + b"".join(pieces) + b"."


def make_input(number: int, seed: int, originals: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Return the input of a number with a word on where it comes from."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.random()
    if kind < 0.15 and any(name.endswith(".pkl") for name in originals):
        return "assembled pickle", assemble(chance)
    name = chance.choice(sorted(originals))
    if kind < 0.25:
        content = originals[name]
        return f"{name}, truncated", content[: chance.randrange(len(content) + 1)]
    if kind < 0.6 and originals[name].startswith(b"PK"):
        return f"{name}, member damaged", mutate_member(originals[name], chance)
    return f"{name}, damaged", mutate(originals[name], chance)


def examine(loaders: list[Loader], content: bytes) -> str:
    """Offer one input to all loaders and say what became of it."""
    outcome = "not recognised"
    for loader in loaders:
        source = MemorySource("input", content)
        if not loader.recognizes(source):
            continue
        try:
            read_all(loader.open(source))
            outcome = f"read by {loader.name}"
        except DoctorError as error:
            outcome = f"refused by {loader.name}"
            check_message(error.message)
        break
    return outcome


def check_message(message: str) -> None:
    """Raise ``AssertionError`` where what users would see is not one sentence."""
    if not message or "\n" in message or len(message) > 2000:
        raise AssertionError(f"not one sentence: {message[:200]!r}")


def read_all(checkpoint: Checkpoint) -> None:
    """Measure every tensor, the optimizers' among them."""
    for tensor in checkpoint.tensors:
        measure(tensor.values)
    for optimizer in checkpoint.optimizers:
        for moments in optimizer.parameters:
            for tensor in moments.state.values():
                measure(tensor.values)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _stop(signal_number: int, frame: object) -> None:
    raise Hang


Attempt = Callable[[int], tuple[str, Callable[[], str]]]
"""Makes the input of a number: a word on where it comes from, and what offers it to the loaders."""


def run(inputs: range, seed: int, report: Callable[[str], None], endings: tuple[str, ...] = ("",)) -> Counter[str]:
    """Try the inputs of these numbers; return how often each outcome came, defects included.

    ``endings`` are those of the sound files that the inputs grow from.
    """
    originals = {name: content for name, content in seeds().items() if name.endswith(endings)}
    loaders = load_loaders()
    for content in originals.values():
        examine(loaders, content)
    report(f"{len(originals)} sound files, {len(loaders)} loaders, {_peak():.0f} MiB before the first input")

    def attempt(number: int) -> tuple[str, Callable[[], str]]:
        origin, content = make_input(number, seed, originals)
        return origin, lambda: examine(loaders, content)

    return try_all(inputs, attempt, report)


def load_loaders() -> list[Loader]:
    """Return the loaders. Raises ``SystemExit`` where one is broken."""
    catalogue = discover(lazily=False)
    if catalogue.broken:
        raise SystemExit(f"some plugins cannot be loaded: {catalogue.broken}")
    return list(catalogue.loaders)


def try_all(inputs: range, attempt: Attempt, report: Callable[[str], None]) -> Counter[str]:
    """Make every attempt; return how often each outcome came, defects included."""
    outcomes: Counter[str] = Counter()
    signal.signal(signal.SIGPROF, _stop)
    slowest, reached = 0.0, _peak()
    for number in inputs:
        origin, offer = attempt(number)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 5 * SLOWEST)
        try:
            outcomes[offer()] += 1
        except Hang:
            outcomes["DEFECT: hang"] += 1
            report(f"input {number} ({origin}) was stopped after {5 * SLOWEST:.0f} s")
        except Exception as error:
            outcomes["DEFECT: traceback"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            report(f"input {number} ({origin}): {type(error).__name__}: {error} at {where.filename}:{where.lineno}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - start
        slowest = max(slowest, took)
        if took > SLOWEST:
            outcomes["DEFECT: slow"] += 1
            report(f"input {number} ({origin}) took {took:.1f} s")
        if (peak := _peak()) > LARGEST and peak > reached + 1:
            outcomes["DEFECT: memory"] += 1
            report(f"input {number} ({origin}) took the process from {reached:.0f} to {peak:.0f} MiB")
        reached = max(reached, peak)
    report(f"slowest input {slowest:.2f} s, peak memory {reached:.0f} MiB")
    return outcomes


def main(description: str | None = __doc__, make: Callable[..., Counter[str]] = run, inputs: int = 50_000) -> int:
    """Run from the command line; the exit code is 1 where there was a defect."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=inputs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="endings", help="sound files to begin with, by their endings: .onnx,.gguf")
    parser.add_argument("--only", type=int, help="try this one input again")
    options = parser.parse_args()
    numbers = range(options.inputs) if options.only is None else range(options.only, options.only + 1)
    endings = tuple(options.endings.split(",")) if options.endings else ("",)
    outcomes = make(numbers, options.seed, lambda line: print(line, flush=True), endings)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>8,}  {outcome}")
    return 1 if any(outcome.startswith("DEFECT") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
