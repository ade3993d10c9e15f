"""Feeds sound files of senseless contents to scan and fix, and counts what must never happen.

Run as ``python -m benchmarks.fuzz_rules [--inputs 10000] [--seed 0] [--first 0]``. ``benchmarks.fuzz`` damages the
bytes of files, which most loaders refuse. Here the containers are valid, and what is in them is mutated: values,
shapes, element types, names, the state and the options of optimizers, settings. So the inputs reach the rules, the
causes, the reports and the repairs; the share that does is printed.

A traceback, a rule or cause that crashes, a finding that JSON cannot hold, more than two seconds of processor time or
more than 400 MB is a defect, printed with the number of the input. The same seed and number make the same input again:
``--only NUMBER``. Every input is scanned, and fixed as a dry run; every tenth is fixed into a copy.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.pickle_code import encode, torch_zip, zipped
from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.plugins.catalogue import Catalogue, discover
from checkpoint_doctor.repair import cross_check
from checkpoint_doctor.results.json import to_json
from checkpoint_doctor.results.report import Page, Verdict

SLOWEST = 2.0
"""Seconds of processor time that one input may take."""
LARGEST = 400
"""MB that the process may reach."""

DTYPES = [np.float32] * 8 + [np.float64, np.float64, np.float16, ml_dtypes.bfloat16, np.complex64, np.complex128]
OTHERS = [np.int64, np.int32, np.uint8, np.bool_]
NUMBERS: list[Any] = [
    0, 1, -1, 0.0, -0.0, 1e-3, 0.9, 0.999, 1.0, 1e-8, -1e-3, 1e200, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**63, -(2**63), 10**100, 10**1200, -(10**1200), True, False, None, "", "auto", "0.1", "nan",
    [], (), [0.9, 0.999], (0.9, 0.999), (1e308, 1e308), (0.9,), (0.9, 0.999, 0.99), {}, {"a": {"b": {"c": 1}}},
]  # fmt: skip
WORDS = [
    "", "weight", "bias", "0", "1", "17", "layers", "h", "encoder", "decoder", "actor", "critic", "critic_target",
    "qf0",     "policy_net", "value_net", "action_net", "mlp_extractor", "features_extractor", "lm_head",
    "head", "embed_tokens", "wte", "norm", "bn", "running_mean", "running_var", "num_batches_tracked", "lora_A",
    "lora_B", "default", "log_std", "log_ent_coef", "ema", "model", "module", "_orig_mod", "state_dict", "q_proj",
    "k_proj", "out_proj", "fc1", "fc_out", "conv1", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0",
    "weight_ih_l0_reverse", "experts", "router", "gamma", "beta", "weight_mask", "weight_orig", "weight_g", "ü",
    "\u202e", "\x1b[2J", "::error", " ", "a" * 300, "..", "/", "\ud800",
]  # fmt: skip


class Hang(BaseException):
    """Raised into a run that takes far too long."""


def shapes(chance: random.Random) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model: a few parts of ordinary architectures, in any order and of odd sizes."""
    size = lambda: chance.choice([0, 1, 1, 2, 3, 4, 7, 8, 8, 16, 16, 24, 33, 64])  # noqa: E731
    found: dict[str, tuple[int, ...]] = {}
    for _ in range(chance.choice([1, 1, 2, 3])):
        prefix = chance.choice(["", "", "", "actor.", "critic.", "critic_target.", "model.", "policy.", "ema."])
        inputs, units, outputs = size(), size(), size()
        match chance.randrange(9):
            case 0:
                sizes = [inputs, *[units] * chance.choice([1, 2, 5]), outputs]
                for place, (one, other) in enumerate(pairwise(sizes)):
                    found |= {f"{prefix}{2 * place}.weight": (other, one), f"{prefix}{2 * place}.bias": (other,)}
            case 1:
                channels = chance.choice([3, units])
                found |= {f"{prefix}conv1.weight": (units, channels, 3, 3), f"{prefix}conv1.bias": (units,)}
                for part in ("weight", "bias", "running_mean", "running_var"):
                    found[f"{prefix}bn1.{part}"] = (units,)
                found |= {f"{prefix}bn1.num_batches_tracked": (), f"{prefix}fc.weight": (outputs, units * 4)}
            case 2:
                gates = chance.choice([3, 4])
                for part, width in (("weight_ih", inputs), ("weight_hh", units)):
                    found[f"{prefix}rnn.{part}_l0"] = (gates * units, width)
                for part in ("bias_ih", "bias_hh"):
                    found[f"{prefix}rnn.{part}_l0"] = (gates * units,)
            case 3:
                for block in range(chance.choice([1, 2, 6])):
                    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                        found[f"{prefix}layers.{block}.self_attn.{part}.weight"] = (units, units)
                        found[f"{prefix}layers.{block}.self_attn.{part}.bias"] = (units,)
                    found |= {f"{prefix}layers.{block}.norm{n}.weight": (units,) for n in (1, 2)}
                    found[f"{prefix}layers.{block}.linear1.weight"] = (4 * units, units)
                    found[f"{prefix}layers.{block}.linear2.weight"] = (units, 4 * units)
                found |= {
                    f"{prefix}embed_tokens.weight": (outputs * 5, units),
                    f"{prefix}lm_head.weight": (outputs, units),
                }
            case 4:
                for part in ("policy_net", "value_net"):
                    found[f"mlp_extractor.{part}.0.weight"], found[f"mlp_extractor.{part}.0.bias"] = (
                        (units, inputs),
                        (units,),
                    )
                found |= {"action_net.weight": (outputs, units), "action_net.bias": (outputs,), "log_std": (outputs,)}
                found |= {"value_net.weight": (1, units), "value_net.bias": (1,)}
            case 5:
                for part in ("q_net", "q_net_target"):
                    found |= {f"{part}.q_net.0.weight": (units, inputs), f"{part}.q_net.0.bias": (units,)}
            case 6:
                found |= {
                    f"{prefix}fc.lora_A.default.weight": (4, inputs),
                    f"{prefix}fc.lora_B.default.weight": (units, 4),
                }
                found[f"{prefix}fc.weight"] = (units, inputs)
            case 7:
                for head in range(chance.choice([2, 5])):
                    found |= {
                        f"{prefix}heads.{head}.weight": (outputs, units),
                        f"{prefix}heads.{head}.bias": (outputs,),
                    }
            case 8:
                name = ".".join(chance.choice(WORDS) for _ in range(chance.choice([1, 2, 3])))
                found[name] = tuple(size() for _ in range(chance.randrange(5)))
    return found


def mutate_shapes(found: dict[str, tuple[int, ...]], chance: random.Random) -> dict[str, tuple[int, ...]]:
    """Return other names, shapes and orders of some tensors."""
    items = list(found.items())
    for _ in range(chance.choice([0, 0, 0, 1, 2, 5])):
        if not items:
            break
        at = chance.randrange(len(items))
        name, shape = items[at]
        match chance.randrange(7):
            case 0:
                del items[at]
            case 1:
                items[at] = ".".join(chance.choice([part, chance.choice(WORDS)]) for part in name.split(".")), shape
            case 2:
                items[at] = name, tuple(chance.choice([each, 0, 1, each + 1]) for each in shape)
            case 3:
                items[at] = name, shape[:-1] or (3, 3)
            case 4:
                items[at] = name, (*shape, chance.choice([1, 2, 3]))
            case 5:
                items.insert(chance.randrange(len(items)), (chance.choice(WORDS), shape))
            case 6:
                chance.shuffle(items)
    return dict(items)


def fill(shape: tuple[int, ...], dtype: Any, kind: str, chance: random.Random) -> np.ndarray:
    """Return values of a kind."""
    generator = np.random.default_rng(chance.randrange(1 << 30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound = shape[-1] ** -0.5 if shape and shape[-1] else 0.3
        wide: Any = generator.uniform(-bound, bound, shape)
        some = generator.random(shape) < 0.1
        match kind:
            case "zero" | "one":
                wide = np.full(shape, float(kind == "one"))
            case "tiny" | "small" | "large" | "huge" | "1e200" | "1e308" | "vanished":
                scale = {"tiny": 1e-40, "small": 1e-6, "large": 1e3, "huge": 1e30, "vanished": 1e-300}
                wide = wide * scale.get(kind, 0.0) if kind in scale else np.sign(wide) * float(kind)
            case "some NaN" | "some infinite" | "some huge" | "some zero":
                worth = {"some NaN": np.nan, "some infinite": -np.inf, "some huge": 1e300, "some zero": 0.0}
                wide = np.where(some, worth[kind], wide)
            case "NaN" | "infinite":
                wide = np.full(shape, np.nan if kind == "NaN" else np.inf)
            case "zero rows" if shape:
                wide[: (len(wide) + 1) // 2] = 0
            case "zero columns" if len(shape) > 1:
                wide[:, : (shape[1] + 1) // 2] = 0
            case "equal rows" if wide.size and shape:
                wide[:] = wide[0]
            case "gridded":
                wide = np.round(wide, 1)
            case "bits":
                raw = generator.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
                if dtype is not np.bool_:
                    return np.frombuffer(raw.tobytes(), dtype).reshape(shape)
        if np.dtype(dtype).kind == "c":
            wide = wide * (1 + chance.choice([0, 1, -0.5]) * 1j)
        return np.asarray(np.asarray(wide).astype(dtype))


VALUES = ["drawn"] * 12 + [
    "zero", "one", "tiny", "small", "large", "huge", "1e200", "1e308", "vanished", "some NaN", "some infinite",
    "some huge", "some zero", "NaN", "infinite", "zero rows", "zero columns", "equal rows", "gridded", "bits",
]  # fmt: skip
STATES = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AMSGrad": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "Adamax": ("exp_avg", "exp_inf"),
    "RMSprop": ("square_avg", "momentum_buffer"),
    "SGD": ("momentum_buffer",),
    "Adagrad": ("sum",),
}


def optimizer_of(arrays: dict[str, np.ndarray], chance: random.Random) -> dict[str, Any]:
    """Return the state of an optimizer that held the tensors, more or less."""
    kind = chance.choice(list(STATES))
    first, second = (chance.choice(VALUES) for _ in range(2))
    updates: Any = chance.choice([0, 1, 30, 1000, 10**9, *NUMBERS] if chance.random() < 0.3 else [30, 1000])
    state: dict[Any, Any] = {}
    held = [array for array in arrays.values() if array.dtype.kind not in "iub" or chance.random() < 0.1]
    for place, array in enumerate(held):
        if chance.random() < 0.05:
            continue
        shape = array.shape if chance.random() < 0.97 else (*array.shape, 2)
        entries: dict[str, Any] = {"step": updates if chance.random() < 0.97 else chance.choice(NUMBERS)}
        if chance.random() < 0.3 and isinstance(updates, int) and abs(updates) < 1e9:
            entries["step"] = np.array(updates, np.float32)
        for key in STATES[kind]:
            how = chance.choice(VALUES) if chance.random() < 0.05 else first if key == "exp_avg" else second
            dtype = np.float32 if chance.random() < 0.9 else array.dtype
            values = fill(shape, dtype, how, chance)
            entries[key] = np.abs(values).astype(dtype) if key not in ("exp_avg", "momentum_buffer") else values
        if chance.random() < 0.03:
            entries[chance.choice(WORDS)] = chance.choice(NUMBERS)
        state[place] = entries
    options: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    if kind == "SGD":
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
    for _ in range(chance.choice([0, 0, 1, 2])):
        key = chance.choice([*options, "initial_lr", "alpha", "centered", "amsgrad", "maximize", "foreach", "rho"])
        options[key] = chance.choice(NUMBERS)
    places = list(range(len(held)))
    if chance.random() < 0.05:
        places = [*places[:-1], chance.choice([0, len(held), -1])]
    cut = chance.randrange(len(places) + 1) if chance.random() < 0.3 else 0
    groups = [{**options, "params": part} for part in (places[:cut], places[cut:])]
    return {"state": state, "param_groups": groups[not cut :]}


def settings_of(chance: random.Random) -> dict[str, Any]:
    """Return settings with senseless values."""
    keys = [
        "gamma", "learning_rate", "ent_coef", "target_entropy", "tau", "clip_range", "max_grad_norm", "n_steps",
        "batch_size", "policy_delay", "target_update_interval", "num_timesteps", "_total_timesteps", "_n_updates",
        "buffer_size", "epoch", "global_step", "vf_coef", "gae_lambda", "policy_kwargs", "action_space", "warmup",
        "gradient_clip_val", "precision", "activation_fn", "lr_schedule", "tau", "normalize_images", "max_epochs",
    ]  # fmt: skip
    return {chance.choice(keys): chance.choice(NUMBERS) for _ in range(chance.choice([0, 1, 3, 10]))}


def schedule_of(chance: random.Random) -> dict[str, Any]:
    """Return the state of a learning rate scheduler or a loss scaler."""
    states: list[dict[str, Any]] = [
        {"last_epoch": 7, "_step_count": 8, "base_lrs": [0.1], "_last_lr": [0.05], "T_max": 10, "eta_min": 0},
        {"num_bad_epochs": 1, "patience": 10, "best": 0.5, "factor": 0.1, "last_epoch": 3},
        {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 3},
    ]
    state = chance.choice(states)
    for _ in range(chance.choice([0, 1, 2])):
        state[chance.choice(list(state))] = chance.choice(NUMBERS)
    return state


def make_input(number: int, seed: int) -> tuple[str, bytes]:
    """Return the file name and the bytes of an input."""
    chance = random.Random(f"{seed}/{number}")
    found = mutate_shapes(shapes(chance), chance)
    usual, kind = chance.choice(DTYPES), chance.choice(VALUES)
    arrays = {}
    for name, shape in found.items():
        dtype = usual if chance.random() < 0.95 else chance.choice(DTYPES + OTHERS)
        dtype = np.int64 if name.endswith("num_batches_tracked") else dtype
        how = kind if chance.random() < 0.4 else "drawn" if chance.random() < 0.7 else chance.choice(VALUES)
        arrays[name] = fill(shape, dtype, how, chance)
    match chance.randrange(8):
        case 0 | 1:
            return "model.pt", _torch(arrays)
        case 2 | 3 | 4:
            content: dict[str, Any] = {
                "model": arrays,
                "optimizer": optimizer_of(arrays, chance),
                **settings_of(chance),
            }
            if chance.random() < 0.3:
                content["scheduler" if chance.random() < 0.7 else "scaler"] = schedule_of(chance)
            if chance.random() < 0.2:
                content["ema"] = {name: fill(each.shape, each.dtype, kind, chance) for name, each in arrays.items()}
            if chance.random() < 0.3:
                content["hyper_parameters"] = settings_of(chance)
            return "training.pt", _torch(content)
        case 5:
            return "model.safetensors", _safetensors(arrays)
        case _:
            settings = {key: each for key, each in settings_of(chance).items() if not isinstance(each, tuple)}
            members = {"data": json.dumps(settings).encode(), "policy.pth": _torch(arrays)}
            members["policy.optimizer.pth"] = _torch(optimizer_of(arrays, chance))
            if chance.random() < 0.3:
                extra = {"log_ent_coef": fill((1,), np.float32, chance.choice(VALUES), chance)}
                members["pytorch_variables.pth"] = _torch(extra)
            return "agent.zip", zipped({**members, "_stable_baselines3_version": b"2.3.0"})


def _torch(content: dict[str, Any]) -> bytes:
    storages: dict[str, bytes] = {}
    return torch_zip(encode(content, storages), storages)


def _safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    codes = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}
    codes |= {"uint8": "U8", "bool": "BOOL", "complex64": "C64"}
    header, body = {}, b""
    for name, array in arrays.items():
        if array.dtype.name in codes:
            content = array.tobytes()
            place = [len(body), len(body) + len(content)]
            header[name] = {"dtype": codes[array.dtype.name], "shape": list(array.shape), "data_offsets": place}
            body += content
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body


class Defect(Exception):
    """Something that must never happen."""


def examine(path: Path, number: int, catalogue: Catalogue) -> str:
    """Scan and fix an input; return what became of it.

    Raises:
        Defect: a rule or cause crashed, or a report cannot be written.
    """
    report = scan([path], catalogue=catalogue, jobs=1)
    (examination,) = report.checkpoints
    if examination.error and ("bug" in examination.hint or "\n" in examination.error):
        raise Defect(examination.error)
    crashes = [each.message for each in examination.findings if each.is_about_ckdoc]
    if crashes:
        raise Defect("; ".join(crashes))
    json.dumps(to_json(report), allow_nan=False)
    if number % 4 == 0:
        for reporter in catalogue.reporters.values():
            reporter.render(report, catalogue.rules, Page()).encode("utf-8")
    options = FixOptions(unsafe=True, recycle=True, notes=number % 3 == 0, dry_run=number % 10 != 0, seed=number)
    (result,) = fix([path], options=options, catalogue=catalogue)
    words = f"{result.error} {result.hint}"
    if re.search(r"\b(bug|crash(ed|es)?|Traceback|fault)\b", words):
        raise Defect(words)
    if examination.verdict is Verdict.UNREADABLE:
        return "unreadable"
    if result.outcome is Outcome.FAILED:
        return f"examined, fix failed: {str(result.error).partition(': ')[2][:60]}"
    return f"examined, {result.outcome.value}"


def _stop(signal_number: int, frame: object) -> None:
    raise Hang


class _Shared(cross_check._Torch):
    """The process with torch, which outlives a fix."""

    def stop(self) -> None:
        """Leave it running."""


def run(inputs: range, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Try the inputs of these numbers; return how often each outcome came, defects included."""
    catalogue = discover(lazily=False)
    if catalogue.broken:
        raise SystemExit(f"some plugins cannot be loaded: {catalogue.broken}")
    shared = _Shared()
    cross_check._Torch = lambda: shared  # type: ignore[assignment,misc]
    signal.signal(signal.SIGPROF, _stop)
    outcomes: Counter[str] = Counter()
    slowest, reached = 0.0, _peak()
    with tempfile.TemporaryDirectory() as place:
        for number in inputs:
            name, content = make_input(number, seed)
            path = Path(place) / name
            path.write_bytes(content)
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, 5 * SLOWEST)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    outcomes[examine(path, number, catalogue)] += 1
            except Hang:
                outcomes["DEFECT: hang"] += 1
                report(f"input {number} ({name}) was stopped after {5 * SLOWEST:.0f} s")
            except Defect as error:
                outcomes["DEFECT: crash"] += 1
                report(f"input {number} ({name}): {error}")
            except DoctorError as error:
                outcomes["not a checkpoint"] += 1
                if "bug" in error.hint:
                    report(f"input {number} ({name}): {error.message}")
            except Exception as error:
                outcomes["DEFECT: traceback"] += 1
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
                report(f"input {number} ({name}): {type(error).__name__}: {str(error)[:200]} at {where}")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            took = time.process_time() - start
            slowest = max(slowest, took)
            if took > SLOWEST:
                outcomes["DEFECT: slow"] += 1
                report(f"input {number} ({name}) took {took:.1f} s")
            if (peak := _peak()) > LARGEST and peak > reached + 1:
                outcomes["DEFECT: memory"] += 1
                report(f"input {number} ({name}) took the process from {reached:.0f} to {peak:.0f} MB")
            reached = max(reached, peak)
            for each in Path(place).iterdir():
                each.unlink()
    report(f"slowest input {slowest:.2f} s, peak memory {reached:.0f} MB")
    return outcomes


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> int:
    """Run from the command line; the exit code is 1 where there was a defect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="try this one input again")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.inputs)
    numbers = numbers if options.only is None else range(options.only, options.only + 1)
    outcomes = run(numbers, options.seed, lambda line: print(line, flush=True))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>8,}  {outcome}")
    examined = sum(count for outcome, count in outcomes.items() if outcome.startswith("examined"))
    print(f"{examined / max(outcomes.total(), 1):.0%} of the inputs reached the rules")
    return 1 if any(outcome.startswith("DEFECT") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
