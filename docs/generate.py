"""Write what the docs derive from elsewhere: ``make docs``. A test fails where they have drifted.

These are the pages under ``docs/rules`` and ``docs/causes``, the API reference, the chart in the README and its
pictures, the list of folders and files in ``docs/architecture.md``, and wherever the repository's address or the
version stands: both are set in one place, ``Source`` of ``[project.urls]`` in pyproject.toml and ``__version__``.
"""

from __future__ import annotations

import ast
import contextlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import api_reference

from checkpoint_doctor import Page, __version__, discover, scan
from checkpoint_doctor.checkpoint.setting_ranges import ANY, known_ranges
from checkpoint_doctor.plugins.explanation import explain_cause, explain_causes, explain_index, explain_rule

ROOT = Path(__file__).parent.parent
RULES = ROOT / "docs" / "rules"
CAUSES = ROOT / "docs" / "causes"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "pictures"
PROJECT = ROOT / "pyproject.toml"
PACKAGE = ROOT / "checkpoint_doctor"
SETTINGS = ROOT / "docs" / "settings.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
API = ROOT / "docs" / "api.md"
ADDRESSED = (PROJECT, ROOT / "SECURITY.md", ROOT / "docs" / "ci.md", ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
"""Files beside the README in which the repository's address stands."""

PICTURED = "fixtures/case_1_head_v6.zip"
"""The checkpoint in the README's pictures."""

PAGE_SIZE = (1000, 1400)
"""Width and height of the part of the page that is shown."""

_GENERATED = "<!-- The rest of this page is generated from the docstrings: `make docs`. -->\n"
_RANGES = (
    "<!-- The rest of this page is generated from checkpoint_doctor/checkpoint/setting_ranges.json: `make docs`. -->\n"
)
_SITE = re.compile(r"https://[\w-]+\.github\.io/checkpoint[-_]doctor(?=/)")
_REPOSITORY = re.compile(r"https://github\.com/[\w-]+/checkpoint[-_]doctor\b")
_ACTION = re.compile(r"(?<=uses: )[\w-]+/checkpoint[-_]doctor@v[\w.]+")
_HOOK_REVISION = re.compile(r"(?<=    rev: )v[\w.]+")
_CHART = re.compile(r"(?<=```console\n\$ ckdoc scan )(\S+)\n.*?(?=```)", re.DOTALL)


def render_rules() -> dict[str, str]:
    """Return the text of every page by its file name; rules of other packages have pages of their own."""
    rules = [rule for rule in discover().rules if rule.package == "checkpoint_doctor"]
    return {"README.md": explain_index(rules)} | {f"{rule.code}.md": explain_rule(rule) for rule in rules}


def render_causes() -> dict[str, str]:
    """Return the text of every page about our own causes by its file name."""
    causes = [cause for cause in discover().causes if cause.package == "checkpoint_doctor"]
    return {"README.md": explain_causes(causes)} | {f"{cause.name}.md": explain_cause(cause) for cause in causes}


def render_readme() -> str:
    """Return the README with the chart that the command above it prints today."""
    text = _CHART.sub(lambda match: f"{match[1]}\n{_draw_chart(match[1])}", README.read_text(encoding="utf-8"))
    return address(text, read_source())


def render_addressed() -> dict[Path, str]:
    """Return the text of every file in which the repository's address or the version stands, the README aside."""
    source = read_source()
    return {file: address(file.read_text(encoding="utf-8"), source) for file in ADDRESSED}


def read_source() -> str:
    """Return the repository's address, from the one place where it is set."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Source"]).rstrip("/")


def address(text: str, source: str, version: str = __version__) -> str:
    """Return a text with the repository at another address and in another version.

    The site is taken to be on GitHub's pages; ``source`` is ``https://github.com/<owner>/<repository>``.
    """
    owner, repository = source.split("/")[-2:]
    text = _SITE.sub(f"https://{owner}.github.io/{repository}", text)
    text = _REPOSITORY.sub(source, text)
    text = _ACTION.sub(f"{owner}/{repository}@v{version}", text)
    return _HOOK_REVISION.sub(f"v{version}", text)


def render_architecture() -> str:
    """Return the page about the architecture with today's folders and files, each with its docstring's first lines."""
    written, _, _ = ARCHITECTURE.read_text(encoding="utf-8").partition(_GENERATED)
    return f"{written}{_GENERATED}\n" + "\n".join(_list_folder(PACKAGE)) + "\n"


def _list_folder(folder: Path) -> Iterator[str]:
    yield f"### `{folder.relative_to(ROOT).as_posix()}/`"
    yield ""
    yield ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    yield ""
    for file in sorted(folder.glob("*.py")):
        if not file.name.startswith("__"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            yield f"- `{file.name}`: {' '.join(docstring.partition(chr(10) * 2)[0].split())}"
    yield ""
    for inside in sorted(folder.iterdir()):
        if (inside / "__init__.py").exists():
            yield from _list_folder(inside)


def _draw_chart(file: str) -> str:
    catalogue = discover()
    with contextlib.chdir(ROOT):
        report = scan([file], catalogue=catalogue)
    chart = catalogue.reporters["terminal"].render(report, catalogue.rules, Page())
    return f"{chart.rstrip()}\n{report.summary_line}\n"


def render_pictures() -> dict[str, str]:
    """Return the README's pictures by file name: the chart in a terminal, and the page in a browser."""
    catalogue = discover()
    with contextlib.chdir(ROOT):
        report = scan([PICTURED], catalogue=catalogue, histograms=True)

    def render(form: str) -> str:
        return catalogue.reporters[form].render(report, catalogue.rules, Page(96, color=True))

    return {"chart.svg": _draw_terminal(render("terminal")), "page.svg": _draw_page(render("html"))}


def _draw_terminal(chart: str) -> str:
    """Draw a chart as SVG, without the font that rich would load from elsewhere."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=98, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text.from_ansi(f"$ ckdoc scan {PICTURED}\n{chart.rstrip()}"))
    picture = console.export_svg(title="ckdoc", unique_id="chart")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")


def _draw_page(page: str) -> str:
    """Draw the beginning of a page as SVG, which a browser shows as it shows the page itself."""
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    body = re.search(r"<header>.*?</section>", page, re.DOTALL)
    assert style
    assert body
    content = re.sub(r" (open|hidden)(?=[ >])", r' \1=""', body[0]).replace("<br>", "<br/>")
    content = content.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ') + "</main>"
    width, height = PAGE_SIZE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<style>{style[1].replace('&', '&amp;')}</style>\n"
        f'<foreignObject width="{width}" height="{height}"><body xmlns="http://www.w3.org/1999/xhtml">\n'
        f"{content}\n</body></foreignObject>\n</svg>\n"
    )


def render_settings() -> str:
    """Return the page about settings with today's ranges."""
    written, mark, _ = SETTINGS.read_text(encoding="utf-8").partition(_RANGES)
    lines = []
    algorithms = dict.fromkeys(each.algorithm for each in known_ranges())
    for algorithm in algorithms:
        lines += ["", f"### {'Any algorithm' if algorithm == ANY else algorithm}", ""]
        lines += ["| setting | range | evidence | source |", "|---|---|---|---|"]
        lines += [
            f"| `{each.setting}` | {each.describe()} | {each.kind.value} | {each.source} |"
            for each in known_ranges()
            if each.algorithm == algorithm
        ]
    return written + mark + "\n".join(lines) + "\n"


def main() -> None:
    """Bring the docs up to date and say what changed."""
    texts = {RULES / name: text for name, text in render_rules().items()}
    texts |= {CAUSES / name: text for name, text in render_causes().items()}
    texts |= {PICTURES / name: text for name, text in render_pictures().items()}
    texts |= render_addressed() | {
        README: render_readme(),
        ARCHITECTURE: render_architecture(),
        SETTINGS: render_settings(),
    }
    texts[API] = api_reference.render()
    for page in (*RULES.glob("*.md"), *CAUSES.glob("*.md")):
        if page not in texts:
            page.unlink()
            print(f"removed {page.relative_to(ROOT)}")
    for page, text in texts.items():
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
