"""Write what the docs derive from the code: ``make docs``. A test fails where they have drifted.

These are the pages under ``docs/rules`` and the chart in the README.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from checkpoint_doctor import Page, discover, scan
from checkpoint_doctor.plugins.explanation import explain_index, explain_rule

ROOT = Path(__file__).parent.parent
RULES = ROOT / "docs" / "rules"
README = ROOT / "README.md"

_CHART = re.compile(r"(?<=```console\n\$ ckdoc scan )(\S+)\n.*?(?=```)", re.DOTALL)


def render_rules() -> dict[str, str]:
    """Return the text of every page by its file name; rules of other packages have pages of their own."""
    rules = [rule for rule in discover().rules if rule.package == "checkpoint_doctor"]
    return {"README.md": explain_index(rules)} | {f"{rule.code}.md": explain_rule(rule) for rule in rules}


def render_readme() -> str:
    """Return the README with the chart that the command above it prints today."""
    return _CHART.sub(lambda match: f"{match[1]}\n{_draw_chart(match[1])}", README.read_text(encoding="utf-8"))


def _draw_chart(file: str) -> str:
    catalogue = discover()
    with contextlib.chdir(ROOT):
        report = scan([file], catalogue=catalogue)
    chart = catalogue.reporters["terminal"].render(report, catalogue.rules, Page())
    return f"{chart.rstrip()}\n{report.summary_line}\n"


def main() -> None:
    """Bring the docs up to date and say what changed."""
    RULES.mkdir(exist_ok=True)
    texts = {RULES / name: text for name, text in render_rules().items()} | {README: render_readme()}
    for page in RULES.glob("*.md"):
        if page not in texts:
            page.unlink()
            print(f"removed {page.relative_to(ROOT)}")
    for page, text in texts.items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
