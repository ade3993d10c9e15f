"""The options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from checkpoint_doctor.cli.completion import complete_engines, complete_formats, complete_rules


class FailOn(str, Enum):
    """The lowest severity that fails a run."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    NEVER = "never"


Uris = Annotated[
    list[str],
    typer.Argument(metavar="URI...", help="Files, folders to search for checkpoints, globs.", show_default=False),
]
ScannedUris = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[URI...]",
        help="Files, folders to search for checkpoints, globs; those of the configuration where none is given.",
        show_default=False,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help="Output format: terminal, json, markdown, html …",
        autocompletion=complete_formats,
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="Write the report to a file instead of stdout.")
]
FailsOn = Annotated[
    FailOn | None,
    typer.Option(help="Lowest severity that fails the run; error unless configured.", show_default=False),
]
Select = Annotated[
    list[str] | None,
    typer.Option(metavar="CODE", help="Run only these rules (code, family or name).", autocompletion=complete_rules),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="CODE", help="Do not run these rules (code, family or name).", autocompletion=complete_rules),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Leave these files and folders out of searches, such as 'data/**'."),
]
Include = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Search for these files only, such as 'models/**'.")
]
ConfigFile = Annotated[
    str, typer.Option("--config", metavar="FILE", help="Use this configuration file instead of the nearest.")
]
Preview = Annotated[
    bool, typer.Option("--preview", help="Let the findings of rules and causes in preview count, as they will.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=0, metavar="N", help="Number of threads; 0 is one per core.")]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where the work is done, by --jobs workers: threads (as by default), processes, ray …",
        autocompletion=complete_engines,
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bar and the closing line.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show a traceback if ckdoc itself fails.")]
