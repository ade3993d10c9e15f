"""Write the pages under ``docs/rules`` from the rules themselves: ``make docs``. A test fails where they drift."""

from __future__ import annotations

from pathlib import Path

from checkpoint_doctor.explanation import explain_index, explain_rule
from checkpoint_doctor.plugins import discover

FOLDER = Path(__file__).parent / "rules"


def render_pages() -> dict[str, str]:
    """Return the text of every page by its file name; rules of other packages have pages of their own."""
    rules = [rule for rule in discover().rules if rule.package == "checkpoint_doctor"]
    return {"README.md": explain_index(rules)} | {f"{rule.code}.md": explain_rule(rule) for rule in rules}


def main() -> None:
    """Bring the folder up to date and say what changed."""
    FOLDER.mkdir(exist_ok=True)
    pages = render_pages()
    for file in FOLDER.glob("*.md"):
        if file.name not in pages:
            file.unlink()
            print(f"removed {file.name}")
    for name, text in pages.items():
        page = FOLDER / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
