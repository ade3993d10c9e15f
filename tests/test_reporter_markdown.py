"""Markdown: a table and lists that no name can break, within what a job summary may hold."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import CLINIC, DORMANT_UNITS, HEALTHY, ILL, ODD, ONE_HEALTHY, RULES, UNREADABLE, ZERO_BIAS

from checkpoint_doctor.builtin.reporters.markdown import MOST_BYTES, reporter
from checkpoint_doctor.results.report import Examination, Page, Report, Verdict


def write(report):
    return reporter.render(report, RULES, Page())


def table_of(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def split_cells(row):
    """Split a table's row as GitHub does: at every bar that no backslash precedes, code span or not."""
    return re.split(r"(?<!\\)\|", row)[1:-1]


def test_the_table_has_the_worst_first():
    rows = table_of(write(CLINIC))
    assert [split_cells(row)[0].strip() for row in rows[2:]] == ["💥 unreadable", "❌ ill", "✅ healthy", "✅ healthy"]
    assert "runs/best.zip" in rows[-1]


def test_a_healthy_checkpoint_has_only_its_row():
    clean = Report((replace(HEALTHY, findings=()),), 3)
    assert "###" not in write(clean)
    assert "| ✅ healthy | `runs/best.zip` | 0 | 0 | 0 | 0 |" in write(clean)


def test_notes_hidden_findings_and_skipped_things_are_told():
    text = write(CLINIC)
    assert "- hidden: error **ZER003** zero-bias · `critic.qf0.0.bias`: by design, since 2024" in text
    assert "- not looked at: `pytorch_variables.pth`, because its pickle asks" in text
    assert "ℹ️ note **FIL004**" in write(ONE_HEALTHY)


def test_an_unreadable_checkpoint_has_its_sentence_and_hint():
    text = write(Report((UNREADABLE,), 1))
    assert "💥 unreadable: runs/broken.zip ends at byte 1,024" in text
    assert "hint: the file is truncated" in text


def test_a_remark_about_the_run_is_told():
    assert "### This run\n\n- ℹ️ note **CKD002** unused-ignore: the ignore of VAL003" in write(CLINIC)


def test_markup_in_messages_is_shown_as_it_is():
    text = write(Report((ODD,), 1))
    assert "<script>" not in text
    assert "first line second \\| \\*line\\* with \\`ticks\\`, 100% of &lt;script&gt;" in text


names = st.text(st.characters(codec=None) | st.sampled_from("|`<>*_[]\\\n#"), min_size=1, max_size=40)


@given(names, names)
@settings(max_examples=200, deadline=None)
def test_no_name_breaks_the_table_or_its_code_span(path, name):
    finding = replace(ZERO_BIAS, tensor=name, message=name, advice=name)
    text = write(Report((replace(ILL, path=path, findings=(finding,)), replace(UNREADABLE, error=name)), 1))
    rows = table_of(text)
    assert len(rows) == 4
    assert {len(split_cells(row)) for row in rows} == {7}
    for head in re.findall(r"(?m)^### (.*)$", text):
        fence = re.match("`+", head)[0]
        assert head.endswith(fence)
        assert fence not in re.findall("`+", head[len(fence) : -len(fence)])


def test_it_is_cut_below_a_megabyte_and_says_so():
    finding = replace(DORMANT_UNITS, advice="word " * 500)
    many = tuple(replace(ILL, path=f"{n}.zip", findings=(ZERO_BIAS, finding)) for n in range(1000))
    text = write(Report(many, 1))
    assert 0.9 * MOST_BYTES < len(text.encode()) < 1 << 20
    left = int(re.search(r"\*\*Cut here\*\*: ([\d,]+) more entries", text)[1].replace(",", ""))
    shown = len(re.findall(r"(?m)^- [❌⚠]", text)) + len(re.findall("(?m)^- not looked at", text))
    assert shown + left == 3000


def test_even_the_table_is_cut():
    many = tuple(Examination(f"{'x' * 200}{n}", "torch", Verdict.HEALTHY) for n in range(8000))
    assert len(write(Report(many, 1)).encode()) < 1 << 20
