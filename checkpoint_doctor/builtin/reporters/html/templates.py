"""The templates, and the one place where texts become part of a page."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from checkpoint_doctor.builtin.reporters._wording import figure, one_line, percentage, shape_in_words
from checkpoint_doctor.text import printable, quantity

_BETWEEN_WORDS = re.compile(r"(?<=[._/])(?=[^._/])")
_CODE = re.compile(r"``([^`]+)``|`([^`]+)`")


def render(template: str, **values: Any) -> Markup:
    """Render a template of this folder; its text is part of a page and is not escaped again."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        finalize=_make_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": write_name, "prose": write_prose, "paragraphs": write_paragraphs, "figure": figure, "share": percentage,
        "shape": shape_in_words,
    }  # fmt: skip
    environment.globals |= {"quantity": quantity, "asset": read_asset, "digest": digest_asset}
    return environment


def _make_printable(value: Any) -> Any:
    """Spell what a terminal or a log would act on, as everywhere else; Jinja2 escapes the rest for HTML."""
    return value if hasattr(value, "__html__") else printable(str(value))


def write_name(name: str) -> Markup:
    """Return the name of a tensor or a file, escaped, which a narrow column breaks between its words."""
    return Markup("<wbr/>").join(_BETWEEN_WORDS.split(printable(name)))


def write_prose(text: str) -> Markup:
    """Return a message on one line, escaped, with what stands between backticks as code."""
    text, pieces, place = one_line(text), [], 0
    for found in _CODE.finditer(text):
        pieces += [escape(text[place : found.start()]), Markup("<code>{}</code>").format(found[1] or found[2])]
        place = found.end()
    return Markup("").join([*pieces, escape(text[place:])])


def write_paragraphs(text: str) -> Markup:
    """Return a rule's section, escaped: paragraphs, and lists of lines that begin with a hyphen."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        first, *items = re.split(r"(?:^|\n)\s*- ", block)
        blocks += [Markup("<p>{}</p>").format(write_prose(first))] if first.strip() else []
        entries = Markup("").join(Markup("<li>{}</li>").format(write_prose(each)) for each in items)
        blocks += [Markup("<ul>{}</ul>").format(entries)] if items else []
    return Markup("").join(blocks)


@cache
def read_asset(name: str) -> Markup:
    """Return the style sheet or the script, which stand in the page as they are."""
    source, _, _ = _environment().loader.get_source(_environment(), name)  # type: ignore[union-attr]
    return Markup(source)


def digest_asset(name: str) -> str:
    """Return the digest by which the page's Content-Security-Policy allows the style sheet or the script."""
    return base64.b64encode(hashlib.sha256(read_asset(name).encode()).digest()).decode()
