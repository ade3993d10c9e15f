"""The chart: readable at any width, harmless with any name, and never silent about what matters."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from sample_reports import (
    CLINIC,
    DORMANT_UNITS,
    HEALTHY,
    HIDDEN,
    ILL,
    ODD,
    ONE_HEALTHY,
    ONE_ILL,
    RULES,
    SCHEDULE,
    UNREADABLE,
    record,
)

from checkpoint_doctor.builtin.reporters._wording import evidence_in_words, percentage
from checkpoint_doctor.builtin.reporters.terminal import reporter
from checkpoint_doctor.checkpoint import Skipped
from checkpoint_doctor.results.findings import Finding, Identity, Severity
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict

COLOR_CODE = re.compile(r"\x1b\[[0-9;]*m")


def draw(report, width=80, **page):
    return reporter.render(report, RULES, Page(width, **page))


def network(layers, findings=(), **fields):
    tensors = [record(f"body.{n}.weight", (8, 8), f"body.{n}", norm=1 + n / 100, **fields) for n in range(layers)]
    return Examination(
        "a.pt", "torch", Verdict.HEALTHY, layers=layers, tensors=tuple(tensors), findings=tuple(findings)
    )


def test_the_verdict_comes_first():
    assert draw(ONE_ILL).startswith(
        "ILL · runs/model.zip — SB3 SAC, 990,000 steps, 6 tensors, 7,683 parameters\n  1 error, 1 warning, 1 note;"
    )


def test_colour_changes_nothing_but_the_colour():
    for width in (40, 80, 120):
        assert COLOR_CODE.sub("", draw(CLINIC, width, color=True)) == draw(CLINIC, width)
    assert COLOR_CODE.search(draw(CLINIC, color=True))


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR", "COLUMNS", "JUPYTER_COLUMNS"])
def test_the_page_alone_decides_and_not_the_environment(monkeypatch, variable):
    expected = draw(CLINIC, 70, color=True), draw(CLINIC, 70)
    monkeypatch.setenv(variable, "33")
    assert (draw(CLINIC, 70, color=True), draw(CLINIC, 70)) == expected


names = st.text(st.characters(codec=None), min_size=1, max_size=60)


@given(names, names, names, st.integers(40, 120), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_name_fits_and_is_harmless(path, tensor, message, width, verbose):
    finding = Finding("ACM001", "odd", Severity.ERROR, message, tensor, "layer", {message: [tensor]}, advice=path)
    examination = Examination(
        path, "torch", Verdict.ILL, layers=1, tensors=(record(tensor, (2,), "layer"), record("b", (2,), message)),
        findings=(finding,), skipped=(Skipped(tensor, message),),
    )  # fmt: skip
    for report in (Report((examination,), 1), Report((examination, replace(UNREADABLE, path=tensor)), 1)):
        text = draw(report, width, verbose=verbose)
        text.encode()
        assert not [letter for letter in text if letter != "\n" and (ord(letter) < 32 or 127 <= ord(letter) < 160)]
        assert [line for line in text.split("\n") if cell_len(line) > width] == []


@given(st.sampled_from(["[red]", "[/]", "[bold red]x[/bold red]", ":smile:", "[link=http://a]b[/link]"]))
def test_rich_markup_is_shown_and_not_obeyed(name):
    examination = replace(ODD, path=f"{name}.pt", tensors=(record(f"{name}.weight", (2,), name),), findings=())
    text = draw(Report((examination,), 1), color=True)
    plain = COLOR_CODE.sub("", text)
    assert f"{name}.pt" in plain
    assert f"\n  {name} " in plain
    assert "\x1b]8" not in text


def test_names_lose_their_first_parts_and_never_the_number():
    name = "features_extractor.extractors.image.cnn.4"
    tensors = (record(f"{name}.weight", (64, 32, 3, 3), name, kind="conv"),) * 2
    text = draw(Report((replace(HEALTHY, tensors=tensors),), 1), 40)
    assert re.search(r"^  …(\w+\.)*cnn\.4 ", text, re.MULTILINE)


def test_long_lists_are_shortened_and_counted():
    finding = replace(DORMANT_UNITS, evidence={"units": list(range(0, 280, 2))})
    assert "units 0, 2, 4, 6, 8, 10 … and 134 more" in draw(Report((replace(ILL, findings=(finding,)),), 1))


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"zero_fraction": 0.309}, "zero fraction 30.9%"),
        (
            {"share": 1e-9, "large_share": 0.99999, "whole_share": 1.0},
            "share <0.1%; large share 99.9%; whole share 100%",
        ),
        ({"norm": 1.5e24, "limit": 0.0}, "norm 1.5e+24; limit 0"),
        ({"alive": True, "dead": False, "since": None, "cut": []}, "alive yes; dead no"),
        ({"units": [3, 4, 5, 6, 9, 10, 20]}, "units 3–6, 9, 10, 20"),
        (
            {"gates": {"forget": 0.5, "input": [1], "cell": [], "ages": None}},
            "gates (forget 0.5, input 1, cell none, ages unknown)",
        ),
        ({"updates_ago": [9, 7, 25_000, 7, 7, 8, 7]}, "updates ago 7 to 25,000 (7 values)"),
        ({"updates_ago": [9, 7, 7]}, "updates ago 9, 7, 7"),
        ({"value": float("nan"), "top": float("-inf")}, "value NaN; top -infinity"),
        ({"flags": [True, True], "layers": ["a", "b"]}, "flags yes, yes; layers a, b"),
    ],
)
def test_evidence_reads_like_words(evidence, words):
    assert evidence_in_words(evidence) == words


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0%"), (1, "100%"), (1e-12, "<0.1%"), (0.9999999, "99.9%"), (0.5, "50.0%")]
)
def test_none_and_all_are_never_rounded(share, words):
    assert percentage(share) == words


def test_groups_and_findings_come_worst_first():
    text = draw(ONE_ILL)
    assert text.index("ZER003") < text.index("NET001") < text.index("FIL004")


def test_what_could_not_be_looked_at_is_always_told():
    skipped = replace(HEALTHY, findings=(), skipped=(Skipped("policy.optimizer.pth", "it is encrypted"),))
    for checkpoints in ((skipped,), (skipped, HEALTHY), (HEALTHY, HEALTHY, skipped)):
        assert "not looked at: policy.optimizer.pth, because it is encrypted" in draw(Report(checkpoints, 1))


def test_an_unreadable_file_gets_its_sentence_and_its_hint():
    assert draw(Report((UNREADABLE,), 1), 100) == (
        "UNREADABLE · runs/broken.zip\n"
        "  it ends at byte 1,024, but 4,096 bytes are expected from byte 0 on\n"
        "  hint: the file is truncated: copy or download it again\n"
    )


def test_hidden_findings_are_counted_and_shown_with_their_reason_on_demand():
    brief, full = draw(ONE_ILL), draw(ONE_ILL, verbose=True)
    assert "1 hidden by config (--verbose shows it)" in brief
    assert "by design" not in brief
    assert "hidden: error ZER003 zero-bias · critic.qf0.0.bias (by design, since 2024)" in full
    twice = replace(ILL, findings=(HIDDEN, HIDDEN))
    assert "no findings; 2 hidden by config (--verbose shows them)" in draw(Report((twice,), 1))


def test_many_healthy_checkpoints_share_one_line():
    many = tuple(replace(HEALTHY, path=f"runs/{n}.zip", findings=(SCHEDULE,) * (n % 2)) for n in range(30))
    header, *lines = draw(Report((*many,), 1)).splitlines()
    assert header.startswith("verdict")
    line = " ".join(" ".join(lines).split())
    assert re.fullmatch(r"HEALTHY .* 30 checkpoints without errors and warnings \(--verbose lists them\)", line)
    verbose = draw(Report(many, 1), verbose=True)
    assert "FIL004" in verbose
    assert all(f"runs/{n}.zip" in verbose for n in range(30))
    assert all(draw(Report(many[:5], 1)).count(f"runs/{n}.zip") == 1 for n in range(5))


def test_checkpoints_that_are_alike_are_sorted_by_the_numbers_in_their_names():
    steps = [replace(HEALTHY, path=f"runs/step_{n}.zip") for n in (10, 9, 100, 1)]
    names = [line.split("/")[-1] for line in draw(Report(tuple(steps), 1)).splitlines()[1:]]
    assert names == ["step_1.zip", "step_9.zip", "step_10.zip", "step_100.zip"]


def test_a_warning_is_shown_even_if_the_checkpoint_passes():
    passing = replace(HEALTHY, findings=(DORMANT_UNITS,))
    assert DORMANT_UNITS.message in draw(Report((HEALTHY, passing, HEALTHY), 1, fail_on=Severity.ERROR))


def test_the_worst_come_last_in_charts_and_summary():
    text = draw(CLINIC)
    table = text[text.index("verdict ") :].splitlines()
    assert [line.split()[-1] for line in table[4:6]] == ["runs/model.zip", "runs/broken.zip"]
    assert table[1].endswith("runs/best.zip")
    assert text.index("ILL · runs/model.zip") < text.index("UNREADABLE · runs/broken.zip")


def test_long_paths_in_the_summary_are_folded_and_not_cut():
    paths = [f"experiments/2024/{name}/CartPole-v1_1/CartPole-v1.zip" for name in ("dqn", "ppo")]
    for width in (40, 60, 80):
        text = draw(Report(tuple(replace(HEALTHY, path=path) for path in paths), 1), width)
        assert all(path in re.sub(r"\n +", "", text) for path in paths)


def test_a_healthy_big_model_is_summed_up():
    text = draw(Report((network(100),), 1))
    assert len(text.splitlines()) < 12
    assert "largest linear" in text
    assert "body.99 " in text
    assert "… 98 more layers without findings (--verbose shows all)" in text
    assert len(draw(Report((network(100),), 1), verbose=True).splitlines()) > 100


def test_sick_layers_of_a_big_model_keep_their_rows():
    findings = [
        Finding("ZER003", "zero-bias", Severity.ERROR, "zero", f"body.{n}.weight", f"body.{n}") for n in (17, 58)
    ]
    text = draw(Report((network(100, findings),), 1))
    assert re.search(r"body\.17 .*◄ ZER003", text)
    assert re.search(r"body\.58 .*◄ ZER003", text)
    assert "96 more layers without findings" in text


def test_hundreds_of_findings_are_counted_by_rule():
    findings = [
        Finding("ZER003", "zero-bias", Severity.WARNING, f"zero: {n}", f"body.{n}.weight", f"body.{n}")
        for n in range(90)
    ] + [Finding("VAL001", "nonfinite-values", Severity.ERROR, "NaN", "body.95.weight", "body.95")]
    text = draw(Report((network(100, findings),), 1))
    assert "✖ error VAL001" in text
    assert "… 66 more findings (--verbose shows all): 66 × ZER003 zero-bias" in text
    assert re.search(r"more layers, \d+ of them with findings", text)
    assert draw(Report((network(100, findings),), 1), verbose=True).count("▲ warning ZER003") == 90


def test_findings_that_say_the_same_are_told_once_and_name_everybody():
    findings = [
        Finding(
            "ZER003",
            "zero-bias",
            Severity.ERROR,
            f"all {n} biases: overwritten",
            f"body.{n}.bias",
            f"body.{n}",
            evidence={"cause": "overwritten"},
            identity=Identity(group_by=("cause",)),
        )
        for n in range(4)
    ] + [Finding("ZER004", "bias-collapse", Severity.ERROR, "4 of 4 biases: overwritten")]
    text = draw(Report((network(4, findings),), 1))
    assert text.index("ZER004") < text.index("✖ error ZER003 zero-bias × 4 · body.0.bias")
    assert "the same holds for: body.{1–3}.bias" in text
    assert draw(Report((network(4, findings),), 1), verbose=True).count("✖ error ZER003") == 4


def test_advice_is_given_once():
    findings = [
        Finding(
            "ZER003", "zero-bias", Severity.ERROR, f"cause {n}", f"body.{n}.bias", f"body.{n}", advice="Look there."
        )
        for n in range(2)
    ]
    text = draw(Report((network(4, findings),), 1))
    assert text.count("advice: Look there.") == 1
    assert text.count("advice: as above") == 1


def test_updates_are_told_or_said_to_be_unknown():
    assert "updates are not known: no optimizer in this file" in draw(Report((network(3, updates=None),), 1))
    assert "– updates: not held by an optimizer" in draw(ONE_ILL)
    mixed = Examination(
        "a.pt", "torch", Verdict.HEALTHY,
        tensors=(record("a.weight", (2, 2), "a", updates=5), record("a.bias", (2,), "a", updates=1600)),
    )  # fmt: skip
    assert "5–1,600" in draw(Report((mixed,), 1))


def test_a_tensor_that_its_layer_would_hide_gets_its_own_row():
    text = draw(ONE_ILL)
    assert re.search(r"\n    \.bias +3 +990,000 +100% +0 +◄ ZER003", text)
    assert re.search(r"\n  critic\.qf0\.0 .*\n    \.bias ", text)


def test_values_that_are_not_finite_are_counted_in_the_table():
    sick = replace(HEALTHY, tensors=(record("a.weight", (2, 2), "a", nonfinite=4, norm=None),))
    assert "4 not finite" in draw(Report((sick,), 1))


def test_a_remark_about_the_run_is_told():
    for report in (CLINIC, replace(ONE_HEALTHY, remarks=CLINIC.remarks), Report((), 0, remarks=CLINIC.remarks)):
        assert "about this run\n  ● note CKD002 unused-ignore\n      the ignore of VAL003" in draw(report)


def test_nothing_breaks_on_an_empty_checkpoint():
    for tensors in ((), (record("a", (0, 3), "a", norm=None, minimum=None, maximum=None),)):
        assert draw(Report((replace(HEALTHY, tensors=tensors, findings=()),), 1)).startswith("HEALTHY")
    assert draw(Report((), 0)) == ""


def test_a_page_narrower_than_sense_is_still_drawn():
    for width in (0, 1, 10, 20):
        assert "HEALTHY" in draw(ONE_HEALTHY, width)


@pytest.mark.parametrize("width", [20, 24, 30, 40])
def test_a_narrow_page_breaks_no_word_that_fits(width):
    message = "gradients of policy.optimizer are antisymmetrical, says entry_quality_head.11.weight"
    finding = Finding("ACM001", "norm-gain-zeros", Severity.ERROR, message, "b.11", "b", advice=message)
    text = draw(Report((replace(HEALTHY, findings=(finding,)),), 1), width)
    shown = set(text.split())
    assert {"norm-gain-zeros", "policy.optimizer", "antisymmetrical,"} <= shown
    assert re.search(r"^ *((entry_quality_)?head\.)?11\.weight$", text, re.MULTILINE)
