"""Every format's whole text, compared with files that people can read.

After an intended change, write them anew with ``python tests/test_reporter_texts.py`` and look at the difference.
"""

import sys
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
from sample_reports import CLINIC, REPORTS, RULES

from checkpoint_doctor import __version__
from checkpoint_doctor.results.report import Page

EXPECTED = Path(__file__).parent / "expected_reports"

CASES = {
    "clinic-80.txt": ("terminal", "clinic", Page(80)),
    "clinic-40.txt": ("terminal", "clinic", Page(40)),
    "clinic-120-verbose.txt": ("terminal", "clinic", Page(120, verbose=True)),
    "clinic.json": ("json", "clinic", Page()),
    "clinic.sarif": ("sarif", "clinic", Page()),
    "clinic.xml": ("junit", "clinic", Page()),
    "clinic-annotations.txt": ("github", "clinic", Page()),
    "clinic.md": ("markdown", "clinic", Page()),
    "diagnosed-80.txt": ("terminal", "diagnosed", Page(80)),
    "diagnosed-40.txt": ("terminal", "diagnosed", Page(40)),
    "diagnosed-120-verbose.txt": ("terminal", "diagnosed", Page(120, verbose=True)),
    "diagnosed.json": ("json", "diagnosed", Page()),
    "diagnosed.sarif": ("sarif", "diagnosed", Page()),
    "diagnosed.xml": ("junit", "diagnosed", Page()),
    "diagnosed-annotations.txt": ("github", "diagnosed", Page()),
    "diagnosed.md": ("markdown", "diagnosed", Page()),
    "clinic-concise.txt": ("concise", "clinic", Page()),
    "clinic-statistics.txt": ("statistics", "clinic", Page()),
    "diagnosed-concise.txt": ("concise", "diagnosed", Page()),
    "diagnosed-statistics.txt": ("statistics", "diagnosed", Page()),
    "clean-80.txt": ("terminal", "clean", Page(80)),
    "clean.json": ("json", "clean", Page()),
    "clean.sarif": ("sarif", "clean", Page()),
    "clean.xml": ("junit", "clean", Page()),
    "clean-annotations.txt": ("github", "clean", Page()),
    "clean.md": ("markdown", "clean", Page()),
}
FORMATS = ("terminal", "json", "sarif", "junit", "github", "markdown", "concise", "statistics")


def render(form, report, page=Page()):  # noqa: B008
    reporter = import_module(f"checkpoint_doctor.builtin.reporters.{form}").reporter
    return reporter.render(report, RULES, page)


def render_case(name):
    form, report, page = CASES[name]
    return render(form, REPORTS[report], page).replace(f'"{__version__}"', '"VERSION"')


@pytest.mark.parametrize("name", CASES)
def test_the_whole_text_is_as_expected(name):
    assert render_case(name) == (EXPECTED / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("form", "name"), list(product(FORMATS, REPORTS)))
def test_the_text_is_the_same_twice_and_can_be_encoded(form, name):
    text = render(form, REPORTS[name])
    assert text == render(form, REPORTS[name])
    assert text.endswith("\n") or not text
    text.encode("utf-8")


@pytest.mark.parametrize("form", FORMATS)
def test_no_control_character_gets_through(form):
    text = render(form, CLINIC)
    assert not [letter for letter in text if letter != "\n" and (ord(letter) < 32 or 127 <= ord(letter) < 160)]
    assert "\u202e" not in text


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for case in CASES:
        (EXPECTED / case).write_text(render_case(case), encoding="utf-8")
