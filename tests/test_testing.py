"""What plugin authors are given must find their mistakes, and let what is right pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file

from checkpoint_doctor import Checkpoint, Page, Report, Safety, Severity, Tensor, discover, rule
from checkpoint_doctor.errors import RepairFailed
from checkpoint_doctor.results.findings import Finding, Repair
from checkpoint_doctor.testing import build_checkpoint, check_loader, check_reporter, check_rule, findings_of

WELL_WRITTEN = """An embedding value is far larger than the others.

    Why it matters:
        It drowns the rest.

    When it is normal:
        Never.

    What to do:
        Lower the learning rate.

    References:
        None yet.
    """

DESCRIBED = WELL_WRITTEN.replace(
    "    References:", "    Options:\n        limit: The largest value that is fine.\n\n    References:"
)


def declare(check, doc: str = WELL_WRITTEN, **options):
    check.__doc__ = doc
    return rule("ACM001", "huge-embedding", Severity.WARNING, **{"on": Tensor, **options})(check)


def large_values(tensor: Tensor, *, limit: float = 10.0) -> Iterator[Finding]:
    if tensor.statistics.absmax > limit:
        yield huge_embedding.finding(f"the largest value is {tensor.statistics.absmax:.1f}", tensor)


huge_embedding = declare(large_values, DESCRIBED)


def named(name: str):
    return next(each for each in discover().loaders if each.name == name)


# --- building checkpoints ---------------------------------------------------------------------------------------------


def test_arrays_become_layers_with_their_figures() -> None:
    checkpoint = build_checkpoint(
        {"net.0.weight": np.ones((4, 3), np.float32), "net.0.bias": np.zeros(4, np.float16)}, step=5, algorithm="PPO"
    )
    assert [(layer.name, layer.kind.value) for layer in checkpoint.layers] == [("net.0", "linear")]
    assert checkpoint.by_name["net.0.bias"].statistics.zeros == 4
    assert checkpoint.by_name["net.0.bias"].dtype == "float16"
    assert (checkpoint.step, checkpoint.algorithm, checkpoint.optimizers) == (5, "PPO", ())


def test_an_optimizer_testifies_as_one_from_a_file_does() -> None:
    weight = np.ones((4, 3), np.float32)
    checkpoint = build_checkpoint(
        {"net.0.weight": weight, "net.0.bias": np.zeros(4, np.float32)},
        optimizer={"net.0.weight": {"step": 100, "exp_avg": weight, "exp_avg_sq": weight}, "net.0.bias": {}},
        optimizer_options={"lr": 0.5},
    )
    assert checkpoint.updates_of("net.0.weight") == 100
    assert checkpoint.updates_of("net.0.bias") == 0
    assert checkpoint.optimizers[0].groups[0].options == {"lr": 0.5}
    zero_bias = next(each for each in discover().rules if each.code == "ZER003")
    [finding] = findings_of(zero_bias, checkpoint)
    assert finding.evidence["cause"] == "never trained"


def test_an_optimizer_cannot_hold_what_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"'other\.weight'"):
        build_checkpoint({"net.weight": np.ones(2)}, optimizer={"other.weight": {}})


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_rule_is_asked_with_its_options() -> None:
    checkpoint = build_checkpoint({"a.weight": np.full((2, 2), 9.0), "b.weight": np.full((2, 2), 99.0)})
    assert [finding.tensor for finding in findings_of(huge_embedding, checkpoint)] == ["b.weight"]
    assert [finding.tensor for finding in findings_of(huge_embedding, checkpoint, limit=5.0)] == [
        "a.weight",
        "b.weight",
    ]
    with pytest.raises(AssertionError, match="has no option 'limits'; it has limit"):
        findings_of(huge_embedding, checkpoint, limits=5.0)


def test_a_well_declared_rule_passes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rule(huge_embedding)


def test_an_option_without_a_description_is_a_warning() -> None:
    def check(tensor: Tensor, *, limit: float = 1.0, share: float = 0.5) -> Iterator[Finding]:
        yield from ()

    with pytest.warns(UserWarning, match="ACM001 huge-embedding: the docstring does not say what the option share"):
        check_rule(declare(check, DESCRIBED))


def test_the_description_of_an_option_that_is_not_there_is_named() -> None:
    def check(tensor: Tensor) -> Iterator[Finding]:
        yield from ()

    with pytest.raises(AssertionError, match="describes the option 'limit', which the rule does not have"):
        check_rule(declare(check, DESCRIBED))


@pytest.mark.parametrize(
    ("doc", "complaint"),
    [
        ("", "not a sentence"),
        (WELL_WRITTEN.replace("others.", "others"), "not a sentence"),
        (WELL_WRITTEN.replace("An embedding", "An embedding" * 12), "characters"),
        (WELL_WRITTEN.replace("When it is normal:", "Sometimes normal:"), "no section 'When it is normal:'"),
        (WELL_WRITTEN.replace("        Never.\n", ""), "no section 'When it is normal:'"),
        (WELL_WRITTEN.replace("What to do", "X").replace("Why it matters", "What to do").replace("X", "Why it matters"),
         "not in the order"),
    ],
)  # fmt: skip
def test_a_docstring_that_cannot_be_explained_is_named(doc: str, complaint: str) -> None:
    def check(tensor: Tensor) -> Iterator[Finding]:
        yield from ()

    with pytest.raises(AssertionError, match=complaint):
        check_rule(declare(check, doc))


def test_a_signature_that_cannot_be_configured_is_named() -> None:
    def without_default(tensor: Tensor, *, limit: float) -> Iterator[Finding]:
        yield from ()

    def odd_default(tensor: Tensor, *, limits: dict = {}) -> Iterator[Finding]:  # noqa: B006
        yield from ()

    def third_argument(tensor: Tensor, checkpoint: Checkpoint, more: int) -> Iterator[Finding]:
        yield from ()

    def anything(tensor: Tensor, **options: object) -> Iterator[Finding]:
        yield from ()

    for check, complaint in (
        (without_default, "default of option limit is not a value"),
        (odd_default, "default of option limits is not a value"),
        (third_argument, "3 positional arguments"),
        (anything, "name its options"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            check_rule(declare(check))


def test_findings_rise_as_far_as_the_rule_declares() -> None:
    def check(tensor: Tensor) -> Iterator[Finding]:
        yield declared.finding("ill", tensor, severity=Severity.ERROR)

    declared = declare(check, worst=Severity.ERROR)
    [finding] = findings_of(declared, build_checkpoint({"a": np.ones(3)}))
    assert finding.severity is Severity.ERROR
    with pytest.raises(ValueError, match="worse than the rule's severity, warning"):
        declare(check, worst=Severity.WARNING)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda it, tensor: Finding("XYZ001", "other", Severity.NOTE, "something"), "XYZ001"),
        (lambda it, tensor: it.finding("ill", tensor, severity=Severity.ERROR), "declare worst=Severity.ERROR"),
        (lambda it, tensor: it.finding("two\nlines", tensor), "not one line"),
        (lambda it, tensor: it.finding("small", tensor, evidence={"size": np.float32(2)}), "float32"),
        (lambda it, tensor: it.finding("small", tensor, evidence={"units": [1, {2}]}), "set"),
        (lambda it, tensor: Finding(it.code, it.name, it.severity, "lost", tensor="nowhere"), "'nowhere'"),
        (lambda it, tensor: it.finding("ill", tensor, repairs=[Repair("gone", "1.0", lambda old, _: old)]), "'gone'"),
        (lambda it, tensor: it.finding("ill", tensor, repairs=[Repair("a", "1.0", lambda old, _: old)]), "fix="),
    ],
)
def test_a_finding_that_breaks_the_contract_is_named(build, complaint: str) -> None:
    def check(tensor: Tensor) -> Iterator[Finding]:
        yield build(declared, tensor)

    declared = declare(check, fix=Safety.SAFE if complaint != "fix=" else None)
    with pytest.raises(AssertionError, match=complaint):
        findings_of(declared, build_checkpoint({"a": np.ones(3)}))


# --- loaders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_file({"b.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b.bias": np.ones(3, np.float32)}, path)
    return path


def test_our_own_loader_keeps_the_contract(small_file: Path) -> None:
    checkpoint = check_loader(named("safetensors"), small_file)
    assert set(checkpoint.by_name) == {"b.weight", "b.bias"}


class Wrapped:
    """A sound loader with one thing done differently."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def __init__(self, **differently) -> None:
        self._inner = named("safetensors")
        for name, value in differently.items():
            setattr(self, name, value)

    def __getattr__(self, name: str):
        return getattr(self._inner, name)


def raise_key_error(*arguments):
    raise KeyError("surprise")


@pytest.mark.parametrize(
    ("differently", "complaint"),
    [
        ({"suffixes": ["safetensors"]}, "suffixes"),
        ({"suffixes": ("safetensors",)}, "dot"),
        ({"recognizes": lambda source: True}, "an empty file as its own"),
        ({"recognizes": lambda source: False}, "does not recognize"),
        ({"recognizes": lambda source: source.read(0, 8)[7] == 0}, "must never raise"),
        ({"name": "other"}, "not the loader's name 'other'"),
        ({"patch": raise_key_error}, "KeyError"),
        ({"patch": lambda checkpoint, changes: {}}, "does not have the new values"),
    ],
)
def test_a_loader_that_breaks_the_contract_is_named(small_file: Path, differently: dict, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_loader(Wrapped(**differently), small_file)


def test_a_loader_that_trips_over_a_short_file_is_named(small_file: Path) -> None:
    whole = small_file.stat().st_size

    def careless(source):
        if source.size < whole:
            raise IndexError("out of range")
        return named("safetensors").open(source)

    def begins_well(source):
        return source.size > 100 and b"F32" in source.read(0, source.size)

    with pytest.raises(AssertionError, match=r"IndexError .* and not UnreadableCheckpoint"):
        check_loader(Wrapped(open=careless, recognizes=begins_well), small_file)


def test_a_loader_may_refuse_to_patch_what_it_says_cannot_be_patched(small_file: Path) -> None:
    def refuse(checkpoint, changes):
        raise RepairFailed("not this format")

    def opened(source):
        return replace(named("safetensors").open(source), is_patchable=False)

    check_loader(Wrapped(patch=refuse, open=opened), small_file)
    with pytest.raises(AssertionError, match=r"patching b\.\w+ is refused \(not this format\).*is_patchable=False"):
        check_loader(Wrapped(patch=refuse), small_file)


# --- reporters --------------------------------------------------------------------------------------------------------


def test_every_reporter_of_ours_keeps_the_contract() -> None:
    reporters = discover().reporters
    assert "json" in reporters
    for name in reporters:
        check_reporter(reporters[name])


@pytest.mark.parametrize(
    ("render", "complaint"),
    [
        (lambda report, rules, page: None, "as NoneType and not as text"),
        (lambda report, rules, page: "fine", "does not contain the code CKD001"),
        (lambda report, rules, page: "".join(each.message + each.code for each in report.findings), "escape"),
        (lambda report, rules, page: report.checkpoints[0].findings[0].message, "raises IndexError"),
    ],
)
def test_a_reporter_that_breaks_the_contract_is_named(render, complaint: str) -> None:
    class Reporter:
        def render(self, report: Report, rules, page: Page) -> str:
            return render(report, rules, page)

    with pytest.raises(AssertionError, match=complaint):
        check_reporter(Reporter())
