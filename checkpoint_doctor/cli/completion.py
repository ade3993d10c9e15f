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


def leave_values_open() -> None:
    """Let bash and zsh add no space after an offer that ends in ``=``: a value follows. Fish adds none.

    typer's scripts have no place for this, and no function to replace them.
    """
    with contextlib.suppress(ImportError, AttributeError, KeyError):
        from typer import _completion_shared as shared

        for shell, (line, replacement) in _LEAVE_OPEN.items():
            script = shared._completion_scripts[shell]
            if replacement not in script:
                shared._completion_scripts[shell] = script.replace(line, replacement, 1)


_ASK_IN_ZSH = '$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" %(autocomplete_var)s=complete_zsh %(prog_name)s)'
_LEAVE_OPEN = {
    "bash": (
        "    return 0\n",
        '    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace; fi\n    return 0\n',
    ),
    "zsh": (
        f"  eval {_ASK_IN_ZSH}\n",
        f'  local offers="{_ASK_IN_ZSH}"\n'
        "  local -a suffix\n"
        "  [[ $offers == *=\\\":* ]] && suffix=(-S '')\n"
        "  eval ${offers/_arguments /_arguments -O suffix }\n",
    ),
}
"""Shell to the line of its script that is replaced, and what replaces it."""
