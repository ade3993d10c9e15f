"""``ckdoc config``."""

from __future__ import annotations

from typing import Annotated

import typer

from checkpoint_doctor.cli.catalogue import Listing, ListingOption
from checkpoint_doctor.cli.options import ConfigFile
from checkpoint_doctor.cli.output import remark, say


def config(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Show the configuration for this checkpoint.")] = "",
    file: ConfigFile = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the configuration.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out values that are at their default.")] = False,
    format: ListingOption = Listing.TABLE,
) -> None:
    """Show the configuration in force, and where each value comes from."""
    import json

    from checkpoint_doctor.config.file import find_config_file, load_config
    from checkpoint_doctor.config.schema import DEFAULT, build_schema, describe_config
    from checkpoint_doctor.plugins.catalogue import discover

    catalogue = discover()
    rules = catalogue.rules
    if schema:
        say(json.dumps(build_schema(rules, catalogue.causes), indent=2))
        return
    rows = describe_config(load_config(rules, causes=catalogue.causes, file=file or None), rules, path or None)
    rows = [row for row in rows if not (changed and row.origin == DEFAULT)]
    if format is Listing.JSON:
        say(json.dumps([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows], indent=2))
        return
    from checkpoint_doctor.cli.drawing import show_table, spell

    if rows:
        show_table(
            ("key", "value", "from"),
            [(row.key, spell(row.value), row.origin) for row in rows],
            styles={DEFAULT: "dim"},
        )
    if not (file or find_config_file()):
        remark("ckdoc: no configuration file in this folder or above; these are the defaults")
