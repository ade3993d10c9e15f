"""Event files of TensorBoard and offline runs of Weights & Biases: the same numbers, and nothing lost by damage."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from event_files import VERSION, crc32c, event, field, history, record, value, varint, wandb_file

from checkpoint_doctor.builtin.log_readers._checksums import compute_crc32c
from checkpoint_doctor.checkpoint import TrainingLog
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.plugins.log_opening import read_log

NAME = "events.out.tfevents.1"


def read(folder: Path, content: bytes, name: str = NAME) -> TrainingLog:
    path = folder / name
    path.write_bytes(content)
    return read_log(path)


def read_or_refuse(folder: Path, content: bytes, name: str = NAME) -> str:
    """The hint of the refusal; empty where the file is read."""
    try:
        read(folder, content, name)
    except UnreadableCheckpoint as error:
        return error.hint or ""
    return ""


def points(log: TrainingLog, name: str = "loss") -> list[tuple[float, float]]:
    curve = next(each for each in log.metrics if each.name == name).recorded
    return list(zip(curve.steps.tolist(), curve.means.tolist(), strict=True))


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 9, 255, 256, 257, 258, 600])
def test_checksums(size: int, count: int) -> None:
    records = np.random.default_rng(size).integers(0, 256, (count, size), dtype=np.uint8)
    assert compute_crc32c(records).tolist() == [crc32c(each.tobytes()) for each in records]


def test_the_checksum_is_that_of_the_standard() -> None:
    known = {b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43}  # RFC 3720, B.4
    for content, checksum in known.items():
        assert compute_crc32c(np.frombuffer(content, np.uint8)[None])[0] == checksum


def tensor(name: str, content: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(8, content) + field(9, field(1, field(1, b"scalars"))))


STEPS = [0, 1, 127, 128, 16_383, 16_384, 2_097_152, 2**40, -3, 2**62]
"""Of every width that a varint has."""


def write_kinds() -> list[bytes]:
    """Events of all kinds that programs write, and of some that hold no scalar."""
    draw = random.Random(0)
    events = []
    for step in sorted(STEPS * 7):
        number = draw.choice([draw.gauss(0, 1), float("nan"), float("inf"), 0.0])
        packed, double = struct.pack("<f", number), struct.pack("<d", number)
        events += [
            event(step, value("loss", number)),
            event(step, value("loss", number), value("weiß/ß", -number), time=draw.random()),
            event(step, tensor("content", b"\x08\x01\x12\x00" + field(4, packed))),
            event(step, tensor("packed", b"\x08\x01\x12\x00" + field(5, packed))),
            event(step, tensor("double", b"\x08\x02\x12\x00" + field(6, double))),
            event(step, tensor("unpacked", b"\x08\x01\x2d" + packed)),
            event(step, tensor("vector", b"\x08\x01\x12\x04\x12\x02\x08\x02" + field(4, packed * 2))),
            event(step, tensor("text", b"\x08\x07\x12\x00" + field(8, b"words" * draw.randrange(99)))),
            event(step, field(1, field(1, b"histogram") + field(5, field(7, double * draw.randrange(9, 200))))),
            event(step),
        ]
    draw.shuffle(events)
    return events


def test_every_number_is_that_of_tensorboard(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    log = read(tmp_path, VERSION + b"".join(map(record, write_kinds())))
    expected: dict[str, list[tuple[float, float]]] = {}
    for each in loader.LegacyEventFileLoader(str(tmp_path / NAME)).Load():
        for one in each.summary.value:
            kind, held = one.WhichOneof("value"), one.tensor
            if kind == "simple_value":
                number = one.simple_value
            elif kind == "tensor" and not held.tensor_shape.dim and held.dtype in (1, 2):
                content = struct.unpack("<f", held.tensor_content) if held.tensor_content else ()
                number = (*content, *held.float_val, *held.double_val)[0]
            else:
                continue
            expected.setdefault(one.tag, []).append((each.step, number))
    assert set(expected) == {"loss", "weiß/ß", "content", "packed", "double", "unpacked"}
    assert {each.name for each in log.metrics} == set(expected)
    for name, numbers in expected.items():
        curve = next(each for each in log.metrics if each.name == name).recorded
        np.testing.assert_array_equal(curve.steps, [float(step) for step, _ in numbers])
        np.testing.assert_array_equal(curve.firsts, [number for _, number in numbers])
    assert log.skipped == ()


def losses(count: int) -> list[bytes]:
    return [record(event(step, value("loss", step / 4))) for step in range(1, count + 1)]


def test_a_file_without_a_version_is_read_and_records_of_other_programs_are_not(tmp_path: Path) -> None:
    assert len(points(read(tmp_path, b"".join(losses(9))))) == 9
    with pytest.raises(UnreadableCheckpoint, match="is no training log that is read"):
        read(tmp_path, record(field(1, b"an example of a data set")) * 9)


def test_a_record_that_is_still_being_written_is_passed_over(tmp_path: Path) -> None:
    *whole, last = losses(5)
    for cut in range(len(last)):
        log = read(tmp_path, VERSION + b"".join(whole) + last[:cut])
        assert [step for step, _ in points(log)] == [1, 2, 3, 4]
        assert log.skipped == ()


def test_a_damaged_event_is_named_and_all_others_are_read(tmp_path: Path) -> None:
    parts = losses(100)
    parts[49] = parts[49][:-10] + b"\x80" + parts[49][-9:]
    log = read(tmp_path, VERSION + b"".join(parts))
    assert [step for step, _ in points(log)] == [*range(1, 50), *range(51, 101)]
    assert [(each.what, each.why) for each in log.skipped] == [("1 event", "the checksum is not that of the bytes")]


@pytest.mark.parametrize("damage", [b"\xff" * 8, bytes(12), b"\x00\x00\x00\x00\x00\x00\x00\x7f"])
def test_what_follows_a_damaged_length_is_named_and_what_precedes_it_is_read(tmp_path: Path, damage: bytes) -> None:
    parts = losses(100)
    parts[49] = damage + parts[49][len(damage) :]
    log = read(tmp_path, VERSION + b"".join(parts))
    assert [step for step, _ in points(log)] == [*range(1, 50)]
    start = len(VERSION) + sum(map(len, parts[:49]))
    left = sum(map(len, parts[49:]))
    assert [each.what for each in log.skipped] == [f"the last {left:,} bytes"]
    assert log.skipped[0].why == f"the record at byte {start:,} is damaged"


def test_a_large_event_is_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = event(3, field(1, field(1, b"picture") + field(4, field(4, bytes(3000)))))
    parts = losses(4)
    content = VERSION + b"".join(parts[:2]) + record(picture) + b"".join(parts[2:])
    for block, largest, said in ((1 << 21, 1 << 26, []), (256, 1 << 26, []), (256, 1 << 10, ["1 event"])):
        monkeypatch.setattr("checkpoint_doctor.builtin.log_readers.tensorboard.BLOCK", block)
        monkeypatch.setattr("checkpoint_doctor.builtin.log_readers.tensorboard.LARGEST", largest)
        log = read(tmp_path, content)
        assert [step for step, _ in points(log)] == [1, 2, 3, 4]
        assert [each.what for each in log.skipped] == said


def test_events_that_differ_in_structure_alone_are_told_apart(tmp_path: Path) -> None:
    # All have one length: names of different lengths beside a note, and bytes that would be a number elsewhere.
    events = []
    for step in range(1, 100):
        for name in ("a", "bb", "ccc"):
            note = field(7, b"\x15" * (5 - len(name)))
            events.append(event(step, field(1, field(1, name.encode()) + note + b"\x15" + struct.pack("<f", step))))
    assert len({len(each) for each in events}) == 1
    log = read(tmp_path, VERSION + b"".join(map(record, events)))
    for name in ("a", "bb", "ccc"):
        assert points(log, name) == [(step, step) for step in range(1, 100)]


def test_hostile_events_end_in_a_sentence(tmp_path: Path) -> None:
    draw = random.Random(1)
    plain = [event(step, value("loss", step), value("b", 1)) for step in range(1, 40)]
    for _ in range(150):
        events = [bytearray(each) for each in plain]
        for each in draw.sample(events, 20):
            for _ in range(draw.randrange(1, 4)):
                each[draw.randrange(len(each))] = draw.randrange(256)
        assert "is a bug" not in read_or_refuse(tmp_path, VERSION + b"".join(record(bytes(each)) for each in events))
    log = read(tmp_path, VERSION + b"".join(map(record, [*plain, b"\x2a\xff\xff\xff\x7f", b"\x0b" * 30])))
    assert [(each.what, each.why) for each in log.skipped] == [("2 events", "the bytes are no event")]
    many = [record(event(1, *(value(f"{part}/{n}", 0.0) for n in range(600)))) for part in range(9)]
    with pytest.raises(UnreadableCheckpoint, match="more than 5,000 metrics"):
        read(tmp_path, VERSION + b"".join(many))


PEAK = (
    "import sys; from checkpoint_doctor.plugins.log_opening import read_log; log = read_log(sys.argv[1]); "
    "print(log.records, next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("name", [NAME, "run.wandb"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    if name == NAME:
        part = b"".join(record(event(step, value(f"m{step % 7}", step))) for step in range(1, 1000))
        content, least = VERSION + part * 400, 399_600
    else:
        part = wandb_file(history(step, {"loss": step, "deep/lr": 0.1, "h/values": [1] * 99}) for step in range(9000))
        content, least = part, 9000
    (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / name)], capture_output=True, text=True)
    records, peak = map(int, done.stdout.split() or [0, 0])
    assert records == least, done.stderr
    assert peak < 120_000


def metrics_at(step: int) -> dict[str, object]:
    logged: dict[str, object] = {"_step": step, "loss": "NaN" if step == 7 else step / 8, "deep/lr": 0.1, "note": "x"}
    return logged | ({"picture/path": "a" * 70_000} if step == 5 else {})


@pytest.mark.parametrize("nested", [True, False])
def test_an_offline_run_of_wandb(tmp_path: Path, nested: bool) -> None:
    records = [b"\xaa\x01\x04left", *(history(n, metrics_at(n), nested=nested) for n in range(400))]
    content = wandb_file(records)
    assert len(content) > 3 * 32768
    log = read(tmp_path, content, "run.wandb")
    assert (log.kind, log.step_name, log.skipped) == ("wandb", "_step", ())
    np.testing.assert_array_equal(points(log), [(n, np.nan if n == 7 else n / 8) for n in range(400)])
    assert points(log, "deep/lr") == [(n, 0.1) for n in range(400)]
    assert {each.name for each in log.metrics} == {"_step", "loss", "deep/lr"}


def test_the_bytes_of_a_run_are_those_that_wandb_reads() -> None:
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    parsed = proto.Record()
    parsed.ParseFromString(history(3, {"loss": 0.5, "deep/lr": 1}))
    assert parsed.num == 3
    assert [([*each.nested_key], each.value_json) for each in parsed.history.item] == [
        (["loss"], "0.5"),
        (["deep", "lr"], "1"),
    ]


def cut(content: bytes) -> bytes:
    return content[:-5]


def damage_a_length(content: bytes) -> bytes:
    """Let a record of the last page reach beyond the end of the file, but not of the page."""
    at = len(content) // 32768 * 32768
    while at + 7 < len(content) - 2000:
        at += 7 + struct.unpack_from("<H", content, at + 4)[0]
    return content[: at + 4] + struct.pack("<H", 2500) + content[at + 6 :]


def damage_the_last_length(content: bytes) -> bytes:
    """Let the last record reach beyond the end of its page."""
    at = len(content) // 32768 * 32768
    while (following := at + 7 + struct.unpack_from("<H", content, at + 4)[0]) < len(content):
        at = following
    return content[: at + 4] + b"\xff\xff" + content[at + 6 :]


def damage_a_page(content: bytes) -> bytes:
    return content[:40_000] + b"\xff" + content[40_001:]


@pytest.mark.parametrize(
    ("change", "first_left_out", "most_left_out", "said"),
    [
        (cut, 1999, 1, []),
        (damage_a_page, 300, 700, ["1 page"]),
        (lambda each: each + bytes(20), 2000, 0, ["1 page"]),
        (damage_a_length, 1800, 100, ["1 page"]),
        (damage_the_last_length, 1999, 1, ["1 page"]),
    ],
)
def test_a_run_that_is_cut_off_or_damaged(
    tmp_path: Path, change: Callable[[bytes], bytes], first_left_out: int, most_left_out: int, said: list[str]
) -> None:
    content = wandb_file(history(n, {"_step": n, "loss": n}) for n in range(2000))
    log = read(tmp_path, change(content), "run.wandb")
    steps = {step for step, _ in points(log)}
    left_out = set(range(2000)) - steps
    assert len(left_out) <= most_left_out
    assert min(left_out, default=2000) >= first_left_out
    assert [each.what for each in log.skipped] == said


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match="in a version that is not known"):
        read(tmp_path, b":W&B\xe1\xbe\x01" + bytes(64), "run.wandb")


def test_hostile_runs_end_in_a_sentence(tmp_path: Path) -> None:
    draw = random.Random(2)
    plain = [history(n, {"_step": n, "loss": n}) for n in range(40)]
    for _ in range(100):
        records = [bytearray(each) for each in plain]
        for each in draw.sample(records, 20):
            each[draw.randrange(len(each))] = draw.randrange(256)
        assert "is a bug" not in read_or_refuse(tmp_path, wandb_file(map(bytes, records)), "run.wandb")
    deep = field(2, field(1, field(2, b"loss") + field(16, b"[" * 100_000)))
    assert len(read(tmp_path, wandb_file([*plain, deep]), "run.wandb").metrics) == 2
    assert varint(300) == b"\xac\x02"
