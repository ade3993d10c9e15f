"""From the tables of a configuration file to checked sections.

Everything that does not exist (a key, a code, an option, a severity) is an error that names the place in the file and
the nearest valid name: a misspelt ignore must not pass unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.checkpoint.metric_meanings import Meaning
from checkpoint_doctor.checkpoint.setting_ranges import Evidence, Range
from checkpoint_doctor.config.settings import ALL, FAIL_ON, OFF, Ignore, Section, selects
from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.findings import Severity

SEVERITIES: Mapping[str, Severity | None] = {**{each.label: each for each in reversed(Severity)}, OFF: None}
"""The values of a rule's severity."""

MEANINGS: Mapping[str, Meaning] = {each.value: each for each in Meaning}
"""What a metric of a training log can mean."""

SECTION_KEYS = ("select", "ignore", "severity", "options")
"""What may be set for all checkpoints or for some paths."""

FILE_KEYS = (*SECTION_KEYS, "fail-on", "preview", "files", "exclude", "include", "metrics", "ranges", "paths")
"""What may be set at the top of a file."""

IGNORE_KEYS = ("code", "path", "tensor", "reason")

_LARGEST = 1e308


def refuse(place: str, noun: str, value: object, choices: Iterable[str], otherwise: str = "") -> UsageError:
    """Return the error that names what does not exist, its place in the file, and the nearest valid name."""
    import difflib

    choices = list(choices)
    folded = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(value).lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}?" if near else otherwise or f"choose from {', '.join(choices)}"
    return UsageError(f"{place}: there is no {noun} {_show(value)}", hint)


class Names(Struct, frozen=True):
    """The rules by code, name, and the beginning of codes; the causes by name."""

    rules: Sequence[Rule]
    causes: Sequence[Cause] = ()

    def read_selector(self, value: object, place: str) -> str:
        """Return a selector that means at least one rule."""
        if isinstance(value, str) and value:
            for selector in (value, value.upper()):
                if selector == ALL or any(selects(selector, rule.code, rule.name) for rule in self.rules):
                    return selector
        raise self._refuse_rule(value, place)

    def read_ignored(self, value: object, place: str) -> str:
        """Return a selector that means at least one rule, or the name of a cause."""
        return value if value in self._causes and isinstance(value, str) else self.read_selector(value, place)

    def read_rule(self, value: str, place: str) -> Rule:
        """Return the rule with a code or a name."""
        for rule in self.rules:
            if value in (rule.code, rule.name):
                return rule
        raise self._refuse_rule(value, place)

    @property
    def _causes(self) -> list[str]:
        return [cause.name for cause in self.causes]

    def _refuse_rule(self, value: object, place: str) -> UsageError:
        known = [*(name for rule in self.rules for name in (rule.code, rule.name)), *self._causes]
        return refuse(place, "rule", value, known, "`ckdoc rules` lists the rules that are installed")


class Reader(Struct, frozen=True):
    """Turns the tables of one file into sections."""

    file: str
    folder: str
    prefix: str
    names: Names

    def read_file(self, table: object) -> tuple[Section, ...]:
        """Return the section for all checkpoints and those for some paths, in the order of the file.

        Raises:
            UsageError: something in the table does not exist or is of the wrong type.
        """
        table = self._table(table, "")
        self._check_keys(table, FILE_KEYS, "")
        fail_on = table.get("fail-on")
        if fail_on is not None and (not isinstance(fail_on, str) or fail_on not in FAIL_ON):
            raise refuse(self._place("fail-on"), "severity", fail_on, FAIL_ON)
        preview = table.get("preview")
        if preview is not None and not isinstance(preview, bool):
            raise self._fault("preview", f"{_show(preview)} is neither true nor false", "write preview = true")
        general = self._read_section({key: table[key] for key in SECTION_KEYS if key in table}, "", None, fail_on)
        exclude, include = (self._strings(table[key], key) if key in table else None for key in ("exclude", "include"))
        files = self._strings(table["files"], "files") if "files" in table else ()
        meanings = self._read_meanings(table.get("metrics", {}), "metrics")
        ranges = tuple(self._read_ranges(table.get("ranges", {}), "ranges"))
        sections = [
            replace(
                general,
                preview=preview,
                files=files,
                exclude=exclude or (),
                include=include,
                meanings=meanings,
                ranges=ranges,
            )
        ]
        for pattern, values in self._table(table.get("paths", {}), "paths").items():
            key = f'paths."{pattern}"'
            for name in ("fail-on", "preview"):
                if name in self._table(values, key):
                    raise self._fault(
                        f"{key}.{name}", f"{name} is for the whole run", "set severities for these paths instead"
                    )
            self._check_keys(values, SECTION_KEYS, key)
            sections.append(self._read_section(values, key + ".", pattern, None))
        return tuple(sections)

    def _read_section(self, table: Mapping[str, Any], key: str, path: str | None, fail_on: str | None) -> Section:
        select = table.get("select")
        return Section(
            origin=self.file,
            folder=self.folder,
            path=path,
            select=None if select is None else self._read_selectors(select, f"{key}select"),
            ignores=self._read_ignores(table.get("ignore", []), f"{key}ignore"),
            severities=self._read_severities(table.get("severity", {}), f"{key}severity"),
            options=self._read_options(table.get("options", {}), f"{key}options"),
            fail_on=fail_on,
        )

    def _read_selectors(self, value: object, key: str) -> tuple[str, ...]:
        return tuple(self.names.read_selector(each, self._place(key)) for each in self._strings(value, key))

    def _read_ignored(self, value: object, key: str) -> tuple[str, ...]:
        return tuple(self.names.read_ignored(each, self._place(key)) for each in self._strings(value, key))

    def _read_ignores(self, value: object, key: str) -> tuple[Ignore, ...]:
        entries = value if isinstance(value, list) else [value]
        return tuple(self._read_ignore(each, f"{key}[{index}]") for index, each in enumerate(entries))

    def _read_ignore(self, value: object, key: str) -> Ignore:
        if isinstance(value, str):
            raise self._fault(
                key, "an ignore needs a reason", f'write {{ code = "{value}", reason = "…" }} in its place'
            )
        table = self._table(value, key)
        self._check_keys(table, IGNORE_KEYS, key)
        reason = table.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise self._fault(
                f"{key}.reason", "an ignore needs a reason", "write in a sentence why the finding is acceptable"
            )
        if "code" not in table:
            raise self._fault(
                f"{key}.code",
                "an ignore needs the code of a rule, or a cause",
                'add code = "…", or "ALL" for every rule',
            )
        return Ignore(
            codes=self._read_ignored(table["code"], f"{key}.code"),
            reason=reason.strip(),
            paths=self._strings(table["path"], f"{key}.path") if "path" in table else (),
            tensors=self._strings(table["tensor"], f"{key}.tensor") if "tensor" in table else (),
            key=self.prefix + key,
        )

    def _read_meanings(self, value: object, key: str) -> dict[str, Meaning]:
        meanings = {}
        for pattern, word in self._table(value, key).items():
            if not isinstance(word, str) or word not in MEANINGS:
                raise refuse(self._place(f'{key}."{pattern}"'), "meaning", word, MEANINGS)
            meanings[pattern] = MEANINGS[word]
        return meanings

    def _read_ranges(self, value: object, key: str) -> Iterator[Range]:
        for algorithm, settings in self._table(value, key).items():
            for setting, limits in self._table(settings, f"{key}.{algorithm}").items():
                place = f"{key}.{algorithm}.{setting}"
                if not isinstance(limits, list) or [type(each) in (int, float) for each in limits] != [True, True]:
                    raise self._fault(place, f"{_show(limits)} is not a range", "write [smallest, largest]")
                low, high = map(float, limits)
                if not low <= high:
                    raise self._fault(place, f"{low:g} is larger than {high:g}", "write [smallest, largest]")
                yield Range(algorithm, setting, low, high, Evidence.OWN, self.file)

    def _read_severities(self, value: object, key: str) -> dict[str, Severity | None]:
        severities = {}
        for name, word in self._table(value, key).items():
            place = f"{key}.{name}"
            if not isinstance(word, str) or word not in SEVERITIES:
                raise refuse(self._place(place), "severity", word, SEVERITIES)
            severities[self.names.read_rule(name, self._place(place)).code] = SEVERITIES[word]
        return severities

    def _read_options(self, table: object, key: str) -> dict[str, dict[str, Any]]:
        options: dict[str, dict[str, Any]] = {}
        for name, values in self._table(table, key).items():
            place = f"{key}.{name}"
            rule = self.names.read_rule(name, self._place(place))
            known = {option.replace("_", "-"): option for option in rule.options}
            for option, given in self._table(values, place).items():
                attribute = known.get(option.replace("_", "-"))
                if attribute is None:
                    if not known:
                        raise self._fault(f"{place}.{option}", f"{rule.code} has no options", "remove the section")
                    raise refuse(self._place(place), "option", option, known)
                value = self._read_option(given, rule.options[attribute], f"{place}.{option}")
                options.setdefault(rule.code, {})[attribute] = value
        return options

    def _read_option(self, value: Any, default: Any, key: str) -> Any:
        """Return an option's value in the type of its default."""
        if isinstance(default, tuple):
            if isinstance(value, list):
                return tuple(self._read_option(each, default[0], key) if default else each for each in value)
        elif isinstance(default, float):
            if type(value) in (int, float) and -_LARGEST < value < _LARGEST:
                return float(value)
        elif type(value) is type(default):
            return value
        raise self._fault(
            key, f"{_show(value)} is not {_describe_type(default)}", f"the default is {_write_value(default)}"
        )

    def _strings(self, value: object, key: str) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(each, str) and each for each in values):
            raise self._fault(key, f"{_show(value)} is neither a string nor a list of strings", "write it in quotes")
        return tuple(values)

    def _table(self, value: object, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._fault(key, f"{_show(value)} is not a table", "write it as a section with values below it")
        return value

    def _check_keys(self, table: Mapping[str, Any], known: Sequence[str], key: str) -> None:
        for each in table:
            if each not in known:
                raise refuse(self._place(key), "key", each, known)

    def _place(self, key: str) -> str:
        return f"{self.file}: {self.prefix}{key}".rstrip(".: ")

    def _fault(self, key: str, message: str, hint: str) -> UsageError:
        return UsageError(f"{self._place(key)}: {message}", hint)


def _show(value: object) -> str:
    """A value as it fits into a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number that long"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _describe_type(default: object) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", tuple: "a list"}
    return names.get(type(default), "what the rule takes")


def _write_value(value: object) -> str:
    import json

    return json.dumps(list(value) if isinstance(value, tuple) else value)
