"""How messages show names from untrusted files, and numbers with their nouns."""

from __future__ import annotations

import re

LONGEST_SHOWN = 120
"""Longest name that a message quotes, in characters: enough for any module path."""

UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufdd0-\\ufdef\\ufeff\\ufff0-\\uffff]"
    "|[\\U000e0000-\\U000e0fff]"
    r"|:(?=:)|#(?=#\w*\[)"
)
"""What a terminal, an editor or a CI log would act on: controls, reversed and invisible text, beginnings of commands.

Those are ``::error::`` of GitHub Actions, ``##[error]`` of it and of Azure Pipelines, ``##teamcity[``. Some count
anywhere in a line, some at its beginning; where a line is broken, any name can come to stand there.
"""


_NUMBER = re.compile(r"([0-9]{1,18})")


def printable(text: str) -> str:
    r"""Escape what a terminal, an editor or a CI log would act on: ``\x1b``, ``\u202e``, ``\x3a:error``.

    No control character survives, so the text is one line.
    """
    return UNPRINTABLE.sub(_spell, text)


def shown(name: object) -> str:
    """Return a name from a file as a message may show it: short and printable."""
    text = str(name)
    return printable(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")


def describe_error(error: BaseException) -> str:
    """Return what an exception of other people's code is and says: ``ValueError: no such layer``."""
    try:
        words = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # even saying it may fail
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _spell(found: re.Match[str]) -> str:
    number = ord(found[0])
    simple = {9: "\\t", 10: "\\n", 13: "\\r"}
    return simple.get(number) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def estimate(number: float) -> str:
    """Return an estimate with two digits: ``64,000``, ``0.93``, ``1.2e-05``."""
    rounded = float(f"{number:.1e}")
    return f"{rounded:,.0f}" if 10 <= rounded < 1e9 else f"{rounded:.2g}"


def quantity(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 finding``, ``2 findings``, ``0 findings``, ``1,234 findings``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def natural_key(text: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Return a sort key that takes the numbers in a text as numbers: ``step_9.zip`` comes before ``step_10.zip``."""
    parts = enumerate(_NUMBER.split(text))
    return tuple((int(part), "") if position % 2 else (-1, part) for position, part in parts), text
