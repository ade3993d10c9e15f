"""From a report to where it goes: the page that a reporter draws on, and standard output or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from checkpoint_doctor.cli.output import page_width, say, say_document, wants_color
from checkpoint_doctor.cli.outputs import write
from checkpoint_doctor.errors import DoctorError, UsageError
from checkpoint_doctor.text import describe_error

if TYPE_CHECKING:
    from checkpoint_doctor.plugins.catalogue import Catalogue
    from checkpoint_doctor.results.report import Page

Drawn = TypeVar("Drawn")

READ_BY_PEOPLE = ("terminal", "concise", "statistics")
"""The formats whose page may end with the closing line."""


def check_format(name: str, catalogue: Catalogue) -> None:
    """Make sure that a format exists before any work is done.

    Raises:
        UsageError: no installed reporter has the name.
    """
    if name not in catalogue.reporters:
        raise UsageError(f"there is no format {name!r}", f"choose one of {', '.join(catalogue.reporters)}")


def make_page(*, to_file: bool, **options: Any) -> Page:
    """Return the page that a report is drawn on: as wide as the terminal, or 80 columns without colours in a file."""
    from checkpoint_doctor.results.report import Page

    width, color = (80, False) if to_file else (page_width(), wants_color(sys.stdout))
    return Page(width=width, color=color, **options)


def draw(name: str, render: Callable[[], Drawn]) -> Drawn:
    """Return what the reporter of a format renders, or let it write.

    Raises:
        UsageError: it fails; the message names it.
    """
    try:
        return render()
    except (DoctorError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if "--traceback" in sys.argv:
            raise
        raise UsageError(
            f"the reporter {name} failed with {describe_error(error)}, so there is no report",
            "choose another --format; `ckdoc plugins` names the package of the reporter",
        ) from error


def deliver(text: str, name: str, path: str) -> None:
    """Write a report in a format to a file, or to standard output where the path is empty. Raises as ``say``."""
    if path:
        write(text, path)
    elif name in READ_BY_PEOPLE:
        say(text)
    else:
        say_document(text)
