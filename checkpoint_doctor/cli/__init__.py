"""The command line: the only place that prints, opens outputs and exits.

Commands import what they need when they run, so that ``--help`` and errors cost no more than they must.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated, NoReturn

# The reductions run on threads of our own; a second pool inside the linear algebra library only costs start-up.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer

from checkpoint_doctor.cli import catalogue, configuration, fixing, scanning
from checkpoint_doctor.cli.help import Command
from checkpoint_doctor.cli.output import FAILED, NOTHING, complain, remark, say
from checkpoint_doctor.errors import DoctorError, NothingToExamine

app = typer.Typer(
    name="ckdoc",
    help="The checkpoint doctor: finds out what is wrong with a trained network from its checkpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from checkpoint_doctor import __version__
        from checkpoint_doctor.plugins.catalogue import OURS
        from checkpoint_doctor.plugins.entry_points import find_entry_points

        others = {
            f"{entry.distribution} {entry.version}"
            for entry in find_entry_points("checkpoint_doctor.")
            if entry.distribution != OURS
        }
        say("\n".join([f"ckdoc {__version__}", *(f"with {each}" for each in sorted(others))]))
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The checkpoint doctor: finds out what is wrong with a trained network from its checkpoint."""


for _command in (
    scanning.scan,
    fixing.fix,
    catalogue.rules,
    catalogue.causes,
    catalogue.explain,
    catalogue.plugins,
    configuration.config,
):
    app.command(cls=Command)(_command)


def main() -> NoReturn:
    """Run ``ckdoc`` and exit with the documented code; no error ends in a traceback unless ``--traceback`` asks."""
    code = FAILED
    # What start-up makes stays until the end: to look for garbage among it would cost a twentieth of a small scan.
    gc.disable()
    try:
        code = app(standalone_mode=False) or 0
    except typer.Exit as exit_:
        code = exit_.exit_code
    except typer.Abort:
        code = 130
    except NothingToExamine as error:
        code = complain(error.message, error.hint, NOTHING)
    except DoctorError as error:
        code = complain(error.message, error.hint)
    except BrokenPipeError:
        # The reader of our output has closed it. Python must not report that again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        code = complain("interrupted", "", 130)
    except Exception as error:
        code = _explain_unforeseen(error)
    sys.exit(code)


def _explain_unforeseen(error: Exception) -> int:
    show = getattr(error, "format_message", None)
    if callable(show):  # the command line itself was wrong: click says how
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ckdoc"
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for: the help is the whole answer
            remark(str(show()))
            return FAILED
        return complain(str(show()).rstrip(".").replace("\n", " "), f"see `{command} --help`")
    if isinstance(error, OSError):
        return complain(f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}", "")
    if "--traceback" in sys.argv:
        raise error
    return complain(
        f"this is a bug in ckdoc: {type(error).__name__}: {error}", "run again with --traceback, and please report it"
    )
