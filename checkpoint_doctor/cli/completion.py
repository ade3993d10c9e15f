"""What the shell offers when the tab key is pressed: rules, causes, formats and engines, with a word about each."""

from __future__ import annotations

import contextlib

Offer = tuple[str, str]
"""A word, and its description; bash shows the word alone."""


def complete_explained() -> list[Offer]:
    """Return what ``ckdoc explain`` takes: codes and names of rules, and names of causes."""
    from checkpoint_doctor.plugins.catalogue import discover

    catalogue = discover()
    return [
        *((rule.code, rule.name) for rule in catalogue.rules),
        *((rule.name, rule.code) for rule in catalogue.rules),
        *((cause.name, cause.summary) for cause in catalogue.causes),
    ]


def complete_rules() -> list[Offer]:
    """Return what selects rules: codes, families and names."""
    from checkpoint_doctor.plugins.catalogue import discover
    from checkpoint_doctor.plugins.explanation import name_family

    rules = discover().rules
    families = {rule.family: name_family(rule) for rule in rules}
    return [
        *families.items(),
        *((rule.code, rule.name) for rule in rules),
        *((rule.name, rule.code) for rule in rules),
    ]


def complete_formats() -> list[Offer]:
    """Return the names of the installed reporters, and the packages that they come from."""
    from checkpoint_doctor.plugins.catalogue import REPORTERS

    return _list_installed(REPORTERS)


def complete_engines() -> list[Offer]:
    """Return the names of the installed engines, and the packages that they come from."""
    from checkpoint_doctor.plugins.catalogue import ENGINES

    return _list_installed(ENGINES)


def _list_installed(group: str) -> list[Offer]:
    from checkpoint_doctor.plugins.entry_points import find_entry_points

    found = [(each.name, each.distribution) for each in find_entry_points(group) if each.group == group]
    return sorted(dict(found).items())


def complete_reports() -> list[Offer]:
    """Return the beginnings of ``--report FORMAT=FILE``."""
    return [(f"{name}=", package) for name, package in complete_formats()]


def leave_values_open_in_bash() -> None:
    """Let bash add no space after an offer that ends in ``=``: a value follows. Other shells take none for finished.

    typer's script has no place for this, and no function to replace it.
    """
    with contextlib.suppress(ImportError, AttributeError, KeyError):
        from typer import _completion_shared as shared

        script = shared._completion_scripts["bash"]
        if _RETURN in script:
            shared._completion_scripts["bash"] = script.replace(_RETURN, f"{_LEAVE_OPEN}{_RETURN}", 1)


_RETURN = "    return 0\n"
_LEAVE_OPEN = '    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace; fi\n'
