"""What declared rules and causes have in common: a docstring with sections, and evidence in plain JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

LONGEST_SUMMARY = 120
"""Characters of a summary, which is a line of ``ckdoc rules`` and the title of a code-scanning alert."""


def judge_docstring(summary: str, sections: Mapping[str, str], headings: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a docstring: its first line, and the sections that must follow in this order."""
    if not summary.endswith("."):
        yield "the docstring's first line is not a sentence that ends in a full stop"
    if len(summary) > LONGEST_SUMMARY:
        yield f"the docstring's first line has {len(summary)} characters; at most {LONGEST_SUMMARY} are allowed"
    missing = [heading for heading in headings if not sections.get(heading)]
    if missing:
        yield f"the docstring has no section {', '.join(repr(each + ':') for each in missing)}"
    present = [heading for heading in sections if heading in headings]
    if present != [heading for heading in headings if heading in present]:
        yield f"the docstring's sections are not in the order {', '.join(headings)}"


def find_invalid_values(value: object, place: str) -> Iterator[str]:
    """Yield the places in evidence that hold something else than plain JSON values."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                yield f"the key {key!r} of {place}"
            yield from find_invalid_values(each, f"{place}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for index, each in enumerate(value):
            yield from find_invalid_values(each, f"{place}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        yield f"{place} ({type(value).__name__})"
