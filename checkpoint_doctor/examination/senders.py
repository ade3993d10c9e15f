"""Who sends a task to another process: the verdict there must come from the same plugins."""

from __future__ import annotations

import gc
import socket
from functools import cache

from msgspec import Struct

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.examination.candidates import digest_catalogue
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.opening import discover_working
from checkpoint_doctor.sources.traces import digest


class Sender(Struct, frozen=True):
    """Who sends a task."""

    host: str
    """The name of the machine."""
    plugins: str
    """The digest of the catalogue."""


def introduce(catalogue: Catalogue) -> Sender:
    """Return this process as a sender."""
    return Sender(socket.gethostname(), _digest(catalogue))


def find_plugins_of(sender: Sender) -> Catalogue:
    """Return the plugins that are installed here, which must be those of the sender.

    Raises:
        UsageError: they are others, so that the verdicts might be others too.
    """
    catalogue, digest = _discover_once()
    if digest != sender.plugins:
        raise UsageError(
            f"the worker on {socket.gethostname()} has other plugins than the process that asks it",
            "install the same version of checkpoint-doctor and of its plugins on both; `ckdoc plugins` lists them",
        )
    return catalogue


def _digest(catalogue: Catalogue) -> str:
    rules, causes = [rule.code for rule in catalogue.rules], [cause.name for cause in catalogue.causes]
    return digest({"installed": digest_catalogue(catalogue), "rules": rules, "causes": causes})


@cache
def _discover_once() -> tuple[Catalogue, str]:
    catalogue = discover_working()
    # What start-up made stays; looking for garbage among it, again and again, is a tenth of the work on a fleet.
    gc.freeze()
    return catalogue, _digest(catalogue)
