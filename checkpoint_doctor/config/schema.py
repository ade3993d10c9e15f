"""The JSON schema of the configuration, and the table of the values in force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.config.settings import ALL, FAIL_ON, OFF, Config, Section, Settings
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity

DEFAULT = "default"
"""The origin of values that are not set anywhere."""


class Row(Struct, frozen=True):
    """One effective value and where it comes from."""

    key: str
    """The key as it stands in a configuration file, such as ``severity.ZER003``."""
    value: Any
    """A plain value: what a file would say there."""
    origin: str
    """``default``, the file, or ``command line``."""


def describe_config(config: Config, rules: Sequence[Rule], path: str | None = None) -> list[Row]:
    """Return every effective value with its origin.

    With a path it is what holds for the checkpoint there; without one, what holds in general, followed by what the
    sections for some paths set.
    """
    settings = config.general if path is None else config.for_path(path)
    rows = [*_describe_effective(settings, rules)]
    if path is None:
        for section in config.sections:
            if section.path is not None:
                rows += _describe_section(section)
    return rows


def _describe_effective(settings: Settings, rules: Sequence[Rule]) -> Iterator[Row]:
    sections = settings.sections[::-1]
    select = next((each for each in sections if each.select is not None), None)
    yield Row("select", list(select.select or ()) if select else [ALL], select.origin if select else DEFAULT)
    for section in settings.sections:
        if section.deselect:
            yield Row("--ignore", list(section.deselect), section.origin)
    fail_on = next((each for each in sections if each.fail_on), None)
    yield Row("fail-on", fail_on.fail_on if fail_on else "error", fail_on.origin if fail_on else DEFAULT)
    preview = next((each for each in sections if each.preview is not None), None)
    yield Row("preview", bool(preview and preview.preview), preview.origin if preview else DEFAULT)
    for section in settings.sections:
        if section.files:
            yield Row("files", list(section.files), section.origin)
        if section.exclude:
            yield Row("exclude", list(section.exclude), section.origin)
    include = next((each for each in sections if each.include is not None), None)
    if include is not None:
        yield Row("include", list(include.include or ()), include.origin)
    for rule in rules:
        section_ = next((each for each in sections if rule.code in each.severities), None)
        severity = section_.severities[rule.code] if section_ else rule.severity
        yield Row(f"severity.{rule.code}", _word(severity), section_.origin if section_ else DEFAULT)
    for rule in rules:
        for option, default in rule.options.items():
            holder = next((each for each in sections if option in each.options.get(rule.code, {})), None)
            value = holder.options[rule.code][option] if holder else default
            yield Row(f"options.{rule.code}.{_spell(option)}", _plain(value), holder.origin if holder else DEFAULT)
    for section in settings.sections:
        for each in section.ranges:
            yield Row(f"ranges.{each.algorithm}.{each.setting}", [each.low, each.high], section.origin)
        for pattern, meaning in section.meanings.items():
            yield Row(f'metrics."{pattern}"', meaning.value, section.origin)
        yield from _describe_ignores(section)


def _describe_section(section: Section) -> Iterator[Row]:
    prefix = f'paths."{section.path}".'
    if section.select is not None:
        yield Row(f"{prefix}select", list(section.select), section.origin)
    for code, severity in section.severities.items():
        yield Row(f"{prefix}severity.{code}", _word(severity), section.origin)
    for code, options in section.options.items():
        for option, value in options.items():
            yield Row(f"{prefix}options.{code}.{_spell(option)}", _plain(value), section.origin)
    yield from _describe_ignores(section)


def _describe_ignores(section: Section) -> Iterator[Row]:
    for ignore in section.ignores:
        limits = {"path": list(ignore.paths), "tensor": list(ignore.tensors)}
        given = {key: value for key, value in limits.items() if value}
        yield Row(ignore.key, {"code": list(ignore.codes), **given, "reason": ignore.reason}, section.origin)


def build_schema(rules: Sequence[Rule], causes: Sequence[Cause] = ()) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of ``ckdoc.toml`` and ``[tool.ckdoc]`` for these rules and causes."""
    section = {
        "select": {
            "description": "The rules to run; all of them by default.",
            **_one_or_more({"$ref": "#/$defs/rule"}),
        },
        "ignore": {
            "description": "Findings to hide, each with the reason why it is acceptable.",
            "type": "array",
            "items": {"$ref": "#/$defs/ignore"},
        },
        "severity": {
            "description": "The severity of a rule's findings, unless their evidence argues for a worse one; "
            "off if the rule is not to be run.",
            **_table(
                {
                    name: {"enum": [*_words(), OFF], "description": rule.summary, "default": rule.severity.label}
                    for rule in rules
                    for name in (rule.code, rule.name)
                }
            ),
        },
        "options": {
            "description": "The options of the rules, such as their thresholds.",
            **_table(
                {name: _options_schema(rule) for rule in rules if rule.options for name in (rule.code, rule.name)}
            ),
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of checkpoint-doctor",
        **_table(
            {
                **section,
                "fail-on": {
                    "description": "The lowest severity that fails the run.",
                    "enum": list(FAIL_ON),
                    "default": "error",
                },
                "files": {
                    "description": "What `ckdoc scan` examines where the command line names nothing.",
                    **_one_or_more({"type": "string", "minLength": 1}),
                },
                "preview": {
                    "description": "Whether the findings of rules and causes in preview count.",
                    "type": "boolean",
                    "default": False,
                },
                "exclude": {
                    "description": "Files and folders that a search leaves out.",
                    **_one_or_more({"type": "string", "minLength": 1}),
                },
                "include": {
                    "description": "The only files and folders that a search takes; all of them by default.",
                    **_one_or_more({"type": "string", "minLength": 1}),
                },
                "metrics": {
                    "description": "What metrics of training logs mean: patterns of their names to meanings.",
                    "type": "object",
                    "additionalProperties": {"enum": [each.value for each in Meaning]},
                },
                "ranges": {
                    "description": "Your own ranges of settings, by algorithm: [smallest, largest].",
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "array",
                            "items": {"type": "number"},
                            "minItems": 2,
                            "maxItems": 2,
                        },
                    },
                },
                "paths": {
                    "description": "Settings for the checkpoints that match a path pattern.",
                    "type": "object",
                    "additionalProperties": _table(section),
                },
            }
        ),
        "$defs": {
            "rule": {
                "description": "A rule's code, the beginning of codes, a rule's name, or ALL.",
                "enum": [ALL, *sorted({name for rule in rules for name in _selectors(rule)})],
            },
            "cause": {"description": "A cause's name.", "enum": sorted(each.name for each in causes)},
            "ignore": {
                **_table(
                    {
                        "code": _one_or_more({"anyOf": [{"$ref": "#/$defs/rule"}, {"$ref": "#/$defs/cause"}]}),
                        "path": _one_or_more({"type": "string", "minLength": 1}),
                        "tensor": _one_or_more({"type": "string", "minLength": 1}),
                        "reason": {"type": "string", "pattern": r"\S"},
                    }
                ),
                "required": ["code", "reason"],
            },
        },
    }


def _options_schema(rule: Rule) -> dict[str, Any]:
    properties = {}
    for option, default in rule.options.items():
        for spelling in dict.fromkeys((_spell(option), option)):
            properties[spelling] = {**_type_of(default), **_describe(rule, option), "default": _plain(default)}
    return _table(properties)


def _describe(rule: Rule, option: str) -> dict[str, Any]:
    description = rule.option_descriptions.get(option)
    return {"description": description} if description else {}


def _type_of(default: object) -> dict[str, Any]:
    if isinstance(default, tuple):
        return {"type": "array", **({"items": _type_of(default[0])} if default else {})}
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": names[type(default)]} if type(default) in names else {}


def _table(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _one_or_more(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(items), {"type": "array", "items": dict(items), "minItems": 1}]}


def _selectors(rule: Rule) -> Iterator[str]:
    yield rule.name
    yield from (rule.code[:length] for length in range(1, len(rule.code) + 1))


def _words() -> list[str]:
    return [severity.label for severity in reversed(Severity)]


def _word(severity: Severity | None) -> str:
    return OFF if severity is None else severity.label


def _spell(option: str) -> str:
    """Options are written in a file as its other keys are: with hyphens."""
    return option.replace("_", "-")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
