"""Writes the API reference, ``docs/api.md``, from signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from textwrap import dedent, indent

import checkpoint_doctor
from checkpoint_doctor import testing

INTRODUCTION = """\
# API reference

Everything that `from checkpoint_doctor import …` gives; whatever else the package holds may move.
[Use as a library](library.md) shows these names at work, and [plugins](plugins.md) tells how rules, causes, loaders,
reporters and engines are written. `__version__` is the version of ckdoc as text. What is listed without parentheses is
an attribute; a value after its type is the default.

<!-- This page is generated from the docstrings: `make docs`. -->
"""

GROUPS: Mapping[str, Sequence[str]] = {
    "Use cases": (
        "scan",
        "scan_each",
        "compare",
        "examine_logs",
        "read_log",
        "open_checkpoint",
        "fix",
        "to_json",
        "discover",
        "load_config",
    ),
    "What a scan returns": (
        "Report",
        "Examination",
        "Verdict",
        "Finding",
        "Diagnosis",
        "Certainty",
        "Prognosis",
        "Severity",
        "TensorRecord",
        "SeriesReport",
        "LogReport",
        "Unsearched",
        "Page",
    ),
    "What a checkpoint is made of": (
        "Checkpoint",
        "Tensor",
        "Series",
        "TensorSeries",
        "TrainingLog",
        "Metric",
        "Meaning",
        "Curve",
        "TensorStatistics",
        "Values",
        "InMemory",
        "Layer",
        "Kind",
        "LayerSignal",
        "Optimizer",
        "ParameterGroup",
        "Moments",
        "MomentStatistics",
        "Part",
        "Content",
        "Skipped",
        "Missing",
        "Flaw",
        "Checksum",
        "PickledName",
    ),
    "Rules and plugins": (
        "rule",
        "Rule",
        "cause",
        "Cause",
        "Claim",
        "Symptoms",
        "Loader",
        "FolderLoader",
        "SeriesReporter",
        "StreamReporter",
        "EntryWriter",
        "LogReporter",
        "LogReader",
        "LogBuilder",
        "Reporter",
        "Engine",
        "Workers",
        "LostTask",
        "Source",
        "Folder",
        "Catalogue",
        "Plugin",
        "Config",
    ),
    "Repairs": ("FixOptions", "FixResult", "Outcome", "Repair", "Safety", "Patch"),
    "Errors": (
        "DoctorError",
        "UnreadableCheckpoint",
        "NotACheckpoint",
        "UsageError",
        "NothingToExamine",
        "RepairFailed",
    ),
}
"""The public names, by subject."""

TESTING = (
    "build_checkpoint",
    "build_series",
    "findings_of",
    "check_rule",
    "check_cause",
    "diagnoses_of",
    "check_loader",
    "check_reporter",
)
"""The names of ``checkpoint_doctor.testing``."""

_SECTION = re.compile(r"(?m)^(Args|Raises):\n")


@dataclass(frozen=True)
class Entry:
    """A public name with its signature and its docstring."""

    name: str
    signature: str
    docstring: str


def render() -> str:
    """Return the text of the page."""
    lines = [INTRODUCTION]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += describe(getattr(checkpoint_doctor, name))
    lines += ["## Tests of plugins", "", "`from checkpoint_doctor.testing import …`", ""]
    for name in TESTING:
        lines += describe(getattr(testing, name))
    return "\n".join(lines).rstrip() + "\n"


def describe(public: type) -> Iterator[str]:
    """Yield the lines about a class or a function."""
    node = _find(public)
    yield f"### {public.__name__}"
    yield ""
    if isinstance(node, ast.FunctionDef):
        yield from ("```python", _sign(node, wrap=True), "```", "", *_format(ast.get_docstring(node) or ""), "")
        return
    yield from (*_format(ast.get_docstring(node) or ""), "")
    named = [base.__name__ for base in public.__bases__ if base.__name__ in checkpoint_doctor.__all__]
    if named:
        yield from (f"A `{named[0]}`.", "")
    entries = list(list_members(public))
    for entry in entries:
        first, *rest = _format(entry.docstring) or [""]
        yield f"- `{entry.signature}`: {first}"
        yield from (f"    {line}".rstrip() for line in rest)
    if entries:
        yield ""


def list_members(public: type) -> Iterator[Entry]:
    """Yield the public attributes, values and methods of a class, those of private base classes first."""
    for base in public.__bases__:
        if base.__module__.startswith("checkpoint_doctor.") and base.__name__ not in checkpoint_doctor.__all__:
            yield from list_members(base)
    node = _find(public)
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.FunctionDef):
            found = Entry(statement.name, _sign_member(statement), ast.get_docstring(statement) or "")
        elif isinstance(statement, (ast.AnnAssign, ast.Assign)):
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            is_value = isinstance(public, type) and issubclass(public, Enum)
            signature = ast.unparse(statement) if is_value else _sign_field(statement)
            found = Entry(ast.unparse(target), signature, _read_docstring(following))
        else:
            continue
        if not found.name.startswith("_"):
            yield found


def _find(public: type) -> ast.ClassDef | ast.FunctionDef:
    """Return the definition of a class or a function in its source."""
    home = inspect.unwrap(public)
    tree = ast.parse(Path(inspect.getfile(home)).read_text(encoding="utf-8"))
    return next(
        node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == public.__name__
    )


def _read_docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""


def _sign(function: ast.FunctionDef, *, wrap: bool = False) -> str:
    arguments = function.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args.pop(0)
    given = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", ast.unparse(arguments))
    returned = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    line = f"{function.name}({given}){returned}"
    if not wrap or len(line) <= 100:
        return line
    pieces = re.split(r", (?=\*|\w+:)", given)
    return f"{function.name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){returned}"


def _sign_member(function: ast.FunctionDef) -> str:
    marks = {ast.unparse(each) for each in function.decorator_list}
    if marks & {"property", "cached_property"}:
        return function.name + (f": {ast.unparse(function.returns)}" if function.returns is not None else "")
    return _sign(function)


def _sign_field(statement: ast.AnnAssign | ast.Assign) -> str:
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement)
    signature = f"{ast.unparse(statement.target)}: {ast.unparse(statement.annotation)}"
    default = statement.value
    if isinstance(default, ast.Call):
        [factory] = [each.value for each in default.keywords if each.arg == "default_factory"] or [None]
        return f"{signature} = {ast.unparse(factory)}()" if factory is not None else signature
    return signature if default is None else f"{signature} = {ast.unparse(default)}"


def _format(docstring: str) -> list[str]:
    """Return the lines of a docstring in Markdown: its sections become lists."""
    text, *sections = _SECTION.split(docstring)
    lines = text.strip().splitlines()
    for heading, body in zip(sections[::2], sections[1::2], strict=True):
        entries, _, after = dedent(body.expandtabs()).partition("\n\n")
        lines += ["", f"{heading}:", ""]
        for entry in re.split(r"\n(?=\S)", entries.strip()):
            name, _, meaning = entry.partition(": ")
            lines += [f"- `{name}`: {meaning.splitlines()[0]}"]
            lines += indent(dedent("\n".join(meaning.splitlines()[1:])), "    ").splitlines()
        lines += ["", *after.strip().splitlines()] if after.strip() else []
    return lines
