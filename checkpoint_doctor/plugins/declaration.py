"""Reads the docstring of a declared rule or cause: one sentence, sections with fixed headings, options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence


def read_summary(declared: object) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(declared) or "").partition("\n")[0].strip()


def read_sections(declared: object, headings: Sequence[str]) -> Mapping[str, str]:
    """Return the sections of a docstring by heading, in the order of the docstring; missing ones are left out."""
    parts = re.split(rf"(?m)^({'|'.join(headings)}):[ \t]*\n?", inspect.getdoc(declared) or "")
    return {heading: inspect.cleandoc(body).strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def read_descriptions(section: str) -> Mapping[str, str]:
    """Return the entries of a section by name, each in one line: ``name: what it is``, further lines indented.

    Names in it stand in single backticks, as Markdown has them.
    """
    parts = re.split(r"(?m)^(\w+):[ \t]", section)
    return {
        name: " ".join(body.split()).replace("``", "`") for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
