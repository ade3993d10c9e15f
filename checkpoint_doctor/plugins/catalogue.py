"""The installed plugins: loaders, rules, causes, reporters, engines. Ours are found as those of other packages are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Generic, TypeVar

from msgspec import Struct, field
from msgspec.structs import asdict

from checkpoint_doctor.errors import UsageError
from checkpoint_doctor.plugins import self_checks
from checkpoint_doctor.plugins.cause import Cause
from checkpoint_doctor.plugins.entry_points import EntryPoint, find_entry_points
from checkpoint_doctor.plugins.protocols import Engine, Loader, Reporter
from checkpoint_doctor.plugins.rule import Rule, is_plain_option
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.text import describe_error

LOADERS = "checkpoint_doctor.loaders"
ANALYZERS = "checkpoint_doctor.analyzers"
CAUSES = "checkpoint_doctor.causes"
REPORTERS = "checkpoint_doctor.reporters"
LOG_READERS = "checkpoint_doctor.log_readers"
ENGINES = "checkpoint_doctor.engines"

LAST_LOADER = "foreign"
"""The loader that is tried when no other recognizes a file; it says what the file is."""

OURS = "checkpoint-doctor"
"""The name of our own package, as ``pip`` calls it."""


class Plugin(EntryPoint, frozen=True):
    """One entry point of an installed package, and whether it can be used."""

    problem: str | None = None
    """Why it, or a part of it, is left out; ``None`` where all of it works."""

    @property
    def is_ours(self) -> bool:
        """True for what comes with checkpoint_doctor itself."""
        return self.distribution == OURS


class Catalogue(Struct, frozen=True):
    """Everything that a run can use."""

    loaders: tuple[Loader, ...]
    """In the order in which they are tried on a file: by name, with ``foreign`` last."""
    rules: tuple[Rule, ...]
    """By code, with the rules of ckdoc itself, which need no entry point."""
    causes: tuple[Cause, ...]
    """By name."""
    reporters: Mapping[str, Reporter]
    """By name, imported when looked up. Looking up a broken one raises ``UsageError`` with the problem."""
    engines: Mapping[str, Engine] = field(default_factory=dict)
    """By name, imported when looked up, as reporters are."""
    plugins: tuple[Plugin, ...] = ()
    """The entry points that all of it comes from, ours first, with those that had to be left out."""

    def find_engine(self, name: str) -> Engine:
        """Return the engine of a name.

        Raises:
            UsageError: there is none, or it cannot be used.
        """
        if name not in self.engines:
            raise UsageError(f"there is no engine {name!r}", f"installed are {', '.join(self.engines)}")
        return self.engines[name]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The file name endings that a search through a folder looks for."""
        return tuple(dict.fromkeys(suffix for loader in self.loaders for suffix in loader.suffixes))

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """The plugins with a problem."""
        return tuple(plugin for plugin in self.plugins if plugin.problem)

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """A finding for each loader, rule and cause that is installed and that a run has to do without."""
        return tuple(
            self_checks.report_left_out(each.group, each.name, each.distribution, each.problem or "")
            for each in self.broken
            if each.group in (LOADERS, ANALYZERS, CAUSES)
        )


def discover(path: Sequence[str] | None = None, *, lazily: bool = True) -> Catalogue:
    """Collect the plugins of all packages installed on a path, ``sys.path`` where none is given.

    A plugin that is broken, or collides with another one, is left out with a ``problem``, and the rest works. Of two
    that collide, ours stays, otherwise the one of the package whose name comes first. Reporters and engines are
    imported when they are looked up; with ``lazily=False`` at once, so that their problems are found too.

    Raises:
        UsageError: checkpoint_doctor itself is not installed, so there are neither loaders nor rules.
    """
    entries = sorted(
        dict.fromkeys(find_entry_points("checkpoint_doctor.", path)),
        key=lambda entry: (entry.distribution != OURS, entry.distribution, entry.group, entry.name),
    )
    if not any(entry.distribution == OURS for entry in entries):
        raise UsageError(
            f"{OURS} is not installed, only its source is on the path: its own loaders and rules cannot be found",
            f"install it with pip install {OURS}, or with pip install -e . from its source",
        )
    problems: dict[EntryPoint, list[str]] = {entry: [] for entry in entries}
    loaders = _load_loaders(entries, problems)
    rules = _load_rules(entries, problems)
    causes = _load_causes(entries, problems)
    reporters = _Named(_select_named(entries, REPORTERS, problems), _check_reporter)
    engines = _Named(_select_named(entries, ENGINES, problems), _check_engine)
    if not lazily:
        for each in (reporters, engines):
            each.check(problems)
    for entry in entries:
        if entry.group not in (LOADERS, ANALYZERS, CAUSES, REPORTERS, LOG_READERS, ENGINES):
            problems[entry].append(f"nothing reads the group {entry.group}")
    return Catalogue(
        loaders=tuple(sorted(loaders, key=lambda loader: (loader.name == LAST_LOADER, loader.name))),
        rules=tuple(sorted(rules, key=lambda rule: rule.code)),
        causes=tuple(sorted(causes, key=lambda cause: cause.name)),
        reporters=reporters,
        engines=engines,
        plugins=tuple(Plugin(**asdict(entry), problem="; ".join(problems[entry]) or None) for entry in entries),
    )


class _Unfit(Exception):
    """The object of an entry point cannot be used; the message says why."""


_Found = TypeVar("_Found")
_Chosen = TypeVar("_Chosen")
_Declared = TypeVar("_Declared", Rule, Cause)
_Problems = Mapping[EntryPoint, list[str]]


class _Named(Mapping[str, _Chosen], Generic[_Chosen]):
    """Reporters or engines by name, each imported when it is looked up: a run needs one or two of them."""

    def __init__(self, entries: Mapping[str, EntryPoint], load: Callable[[EntryPoint], _Chosen]) -> None:
        self._entries = entries
        self._load = load
        self._loaded: dict[str, _Chosen] = {}

    def __getitem__(self, name: str) -> _Chosen:
        if name not in self._loaded:
            entry = self._entries[name]
            try:
                self._loaded[name] = self._load(entry)
            except _Unfit as unfit:
                raise UsageError(
                    f"the {_noun(entry.group)} {name} of {entry.distribution} {entry.version} cannot be used: {unfit}",
                    f"update or uninstall {entry.distribution}",
                ) from None
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, problems: _Problems) -> None:
        """Import all of them, and note the problems of those that cannot be used."""
        for entry in self._entries.values():
            _attempt(entry, self._load, problems)


def _noun(group: str) -> str:
    return group.rpartition(".")[2].removesuffix("s")


def _one(group: str) -> str:
    noun = _noun(group)
    return f"{'an' if noun[0] in 'ae' else 'a'} {noun}"


def _load_loaders(entries: Iterable[EntryPoint], problems: _Problems) -> list[Loader]:
    named = _select_named(entries, LOADERS, problems)
    loaded = (_attempt(entry, _check_loader, problems) for entry in named.values())
    return [loader for loader in loaded if loader is not None]


def _load_rules(entries: Iterable[EntryPoint], problems: _Problems) -> list[Rule]:
    rules = list(self_checks.RULES)
    owners = dict.fromkeys(rules, OURS)
    for entry in entries:
        if entry.group != ANALYZERS:
            continue
        for rule in _attempt(entry, _find_declared(Rule, "rule"), problems) or ():
            if rule in owners:  # imported by a second module: the same rule, not a rival
                continue
            rival = next((each for each in rules if each.code == rule.code or each.name == rule.name), None)
            problem = _judge_options(rule) if rival is None else _describe_rivals(rule, entry, rival, owners[rival])
            if problem:
                problems[entry].append(problem)
            else:
                rules.append(rule)
                owners[rule] = entry.distribution
    return rules


def _load_causes(entries: Iterable[EntryPoint], problems: _Problems) -> list[Cause]:
    causes: dict[str, Cause] = {}
    owners: dict[str, str] = {}
    for entry in entries:
        if entry.group != CAUSES:
            continue
        for cause in _attempt(entry, _find_declared(Cause, "cause"), problems) or ():
            first = causes.setdefault(cause.name, cause)
            owner = owners.setdefault(cause.name, entry.distribution)
            if first is not cause:
                problems[entry].append(
                    f"{owner} and {entry.distribution} both declare the cause {cause.name}; the one of {owner} is used"
                )
    return list(causes.values())


def _select_named(entries: Iterable[EntryPoint], group: str, problems: _Problems) -> dict[str, EntryPoint]:
    """Of one group, the first entry point of each name."""
    chosen: dict[str, EntryPoint] = {}
    for entry in entries:
        if entry.group != group:
            continue
        first = chosen.setdefault(entry.name, entry)
        if first is not entry:
            problems[entry].append(
                f"{first.distribution} and {entry.distribution} both name {_one(group)} {entry.name};"
                f" the one of {first.distribution} is used"
            )
    return chosen


def _attempt(entry: EntryPoint, load: Callable[[EntryPoint], _Found], problems: _Problems) -> _Found | None:
    try:
        return load(entry)
    except _Unfit as unfit:
        problems[entry].append(str(unfit))
        return None


def _import(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module of another package may even call sys.exit
        raise _Unfit(f"{entry.value} cannot be loaded: {describe_error(error)}") from error


def _check_loader(entry: EntryPoint) -> Loader:
    found = _check_methods(entry, ("recognizes", "open", "patch"))
    _check_name(found, entry)
    suffixes = getattr(found, "suffixes", None)
    if not isinstance(suffixes, tuple) or not all(isinstance(each, str) for each in suffixes):
        raise _Unfit(f"{entry.value} has no tuple of file name endings as its suffixes")
    return found  # type: ignore[return-value]


def _check_name(found: object, entry: EntryPoint) -> None:
    name = getattr(found, "name", None)
    if name != entry.name:
        raise _Unfit(f"{entry.value} has the name {name!r}, but is registered as {entry.name!r}")


def _check_reporter(entry: EntryPoint) -> Reporter:
    return _check_methods(entry, ("render",))  # type: ignore[return-value]


def _check_engine(entry: EntryPoint) -> Engine:
    found = _check_methods(entry, ("start",))
    _check_name(found, entry)
    return found  # type: ignore[return-value]


def _check_methods(entry: EntryPoint, names: Iterable[str]) -> object:
    found = _import(entry)
    if isinstance(found, type):
        raise _Unfit(f"{entry.value} is a class; name an instance of it")
    missing = [name for name in names if not callable(getattr(found, name, None))]
    if missing:
        raise _Unfit(f"{entry.value} has no method {' and no '.join(missing)}")
    return found


def _find_declared(kind: type[_Declared], word: str) -> Callable[[EntryPoint], list[_Declared]]:
    """Return what finds the rules or the causes in the module that an entry point names, or the one that it names."""

    def find(entry: EntryPoint) -> list[_Declared]:
        found = _import(entry)
        named = vars(found).values() if isinstance(found, ModuleType) else (found,)
        declared = [each for each in named if isinstance(each, kind)]
        if not declared:
            raise _Unfit(f"{entry.value} holds no {word}; declare {word}s with @{word} at the top level of the module")
        return list(dict.fromkeys(declared))

    return find


def _judge_options(rule: Rule) -> str | None:
    """Say what is wrong with a rule's options: each needs a default that a configuration file can replace."""
    try:
        options = rule.options
    except (TypeError, ValueError) as error:
        return f"rule {rule.code} has no readable signature: {error}"
    unfit = [name for name, default in options.items() if not is_plain_option(default)]
    if unfit:
        return f"rule {rule.code} has options without a plain default: {', '.join(unfit)}"
    return None


def _describe_rivals(rule: Rule, entry: EntryPoint, rival: Rule, owner: str) -> str:
    shared = f"the code {rule.code}" if rule.code == rival.code else f"the name {rule.name}"
    return (
        f"{owner} ({rival.code} {rival.name}) and {entry.distribution} ({rule.code} {rule.name})"
        f" both declare a rule with {shared}; the one of {owner} is used"
    )
