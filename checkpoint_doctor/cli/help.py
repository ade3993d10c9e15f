"""The end of each command's help: examples, and where the docs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typer.core import TyperCommand

EXAMPLES: Mapping[str, Sequence[str]] = {
    "scan": (
        "ckdoc scan model.zip",
        "ckdoc scan runs/ --verbose",
        "ckdoc scan model.pt --format concise",
        "ckdoc scan model.zip --settings",
        "ckdoc scan models --report junit=ckdoc.xml --fail-on warning",
    ),
    "fix": (
        "ckdoc fix model.zip --dry-run",
        "ckdoc fix model.zip --output model_repaired.zip",
        "ckdoc fix runs/ --recycle --output repaired/",
    ),
    "compare": (
        "ckdoc compare runs/ppo",
        "ckdoc compare runs/ppo --tensor 'value_net*'",
        "ckdoc compare base.pt fine_tuned.pt --format json",
    ),
    "watch": (
        "ckdoc watch runs/ppo --stalled 30m",
        "ckdoc watch runs/ppo --fail-on warning --exit-on-alarm",
        "ckdoc watch runs/ppo --exec 'mail -s \"$CKDOC_PATH is $CKDOC_VERDICT\" me@example.org'",
    ),
    "log": (
        "ckdoc log progress.csv",
        "ckdoc log logs/ --fail-on warning",
        "ckdoc log trainer_state.json --format json",
    ),
    "rules": ("ckdoc rules", "ckdoc rules --format json"),
    "causes": ("ckdoc causes", "ckdoc causes --format json"),
    "explain": ("ckdoc explain ZER003", "ckdoc explain bias-collapse", "ckdoc explain overwritten"),
    "plugins": ("ckdoc plugins", "ckdoc plugins --format json"),
    "config": ("ckdoc config", "ckdoc config models/actor.zip --changed", "ckdoc config --schema"),
}

PAGES = {
    "fix": "fix",
    "compare": "compare",
    "log": "logs",
    "rules": "rules",
    "causes": "causes",
    "explain": "rules",
    "plugins": "plugins",
    "config": "ci",
    "watch": "watch",
}
"""The page of the docs for each command; the others have the front page."""


class Command(TyperCommand):
    """A command whose help ends with examples and an address."""

    def format_epilog(self, ctx: object, formatter: object) -> None:
        """Write the examples as they are typed, then the address of the docs."""
        from checkpoint_doctor.plugins.explanation import find_docs

        write = formatter.write  # type: ignore[attr-defined]
        name = self.name or ""
        write("\nExamples:\n" + "".join(f"  {each}\n" for each in EXAMPLES.get(name, ())))
        if docs := find_docs():
            page = f"{PAGES[name]}/" if name in PAGES else ""
            write(f"\nDocs: {docs}/{page}\n")
