"""What a released version said: its rules and causes, and a baseline over the fixtures.

``python -m tests.released`` writes both for the version that is about to be released. The tests compare later versions
with them: whatever can change a verdict must be in preview, or have a line under *Verdicts* in the changelog.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RELEASED = Path(__file__).parent / "released"

Declarations = Mapping[str, Mapping[str, Any]]
"""Codes of rules and names of causes, each with what decides about its verdicts."""


def declare() -> Declarations:
    """Return what is declared today, as plain JSON values."""
    from checkpoint_doctor import discover

    catalogue = discover()
    rules = {
        rule.code: {
            "severity": rule.severity.label,
            "preview": rule.preview,
            "options": {
                name: list(value) if isinstance(value, tuple) else value for name, value in rule.options.items()
            },
            "part": list(rule.identity.part),
            "worse": list(rule.identity.worse),
        }
        for rule in catalogue.rules
        if rule.package == "checkpoint_doctor"
    }
    causes = {
        cause.name: {"prognosis": cause.prognosis.value, "preview": cause.preview}
        for cause in catalogue.causes
        if cause.package == "checkpoint_doctor"
    }
    return {**rules, **causes}


def find_changes(before: Declarations, after: Declarations) -> Iterator[str]:
    """Yield the rules and causes whose verdicts can change: new ones that count, dropped ones, and changed ones."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        decides = new is not None and not new["preview"]
        if old is None or old["preview"]:
            if decides:
                yield name
        elif new != old:
            yield name


def read_verdicts(changelog: str, version: str) -> set[str]:
    """Return the codes and causes that the lines under *Verdicts* name, in the sections newer than a version."""
    newer = changelog.partition(f"\n## [{version}]")[0]
    sections = re.findall(r"^### Verdicts\n(.*?)(?=^##|\Z)", newer, re.MULTILINE | re.DOTALL)
    lines = [line for section in sections for line in re.split(r"^- ", section, flags=re.MULTILINE)]
    heads = [re.match(r"((?:`?[A-Z]{3}\d{3}`?|`[a-z-]+`)(?:, | and )?)+:", line) for line in lines]
    return {name for head in heads if head for name in re.findall(r"[A-Z]{3}\d{3}|[a-z]+(?:-[a-z]+)*", head[0])} - {
        "and"
    }


def main() -> None:
    """Write what the version in ``checkpoint_doctor.__version__`` declares and finds."""
    from checkpoint_doctor import __version__, scan
    from checkpoint_doctor.results.baseline import write_baseline

    folder = RELEASED / __version__
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "declarations.json").write_text(json.dumps(declare(), indent=1) + "\n")
    fixtures = ROOT / "fixtures"
    (folder / "baseline.json").write_text(write_baseline(scan([fixtures]), str(fixtures / "baseline.json")))


if __name__ == "__main__":
    main()
