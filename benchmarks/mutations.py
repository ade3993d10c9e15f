"""Finds the places of a module where a small change should turn a test red (see ``benchmarks.mutants``)."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
_SWAPPED = {
    "Severity": {"ERROR": "WARNING", "WARNING": "ERROR", "NOTE": "WARNING"},
    "Safety": {"SAFE": "UNSAFE", "ON_REQUEST": "SAFE", "UNSAFE": "SAFE"},
    "Verdict": {"HEALTHY": "ILL", "ILL": "HEALTHY", "INCOMPLETE": "HEALTHY", "UNREADABLE": "HEALTHY"},
    "Cause": {"STEP_0": "UNKNOWN", "NEVER_TRAINED": "OVERWRITTEN", "OVERWRITTEN": "UNKNOWN", "UNKNOWN": "OVERWRITTEN"},
}
_EXIT_CODES = {"FAILED": "HEALTHY", "ILL": "HEALTHY", "HEALTHY": "ILL"}
_UNTOUCHED_KEYWORDS = ("strict", "frozen", "eq", "order", "repr", "init")


@dataclass(frozen=True)
class Mutant:
    """One change in one line of a module."""

    module: str
    """Path from the root of the checkout."""
    function: str
    number: int
    """Of the line, from 1."""
    start: int
    stop: int
    """Place of the change in the module's text."""
    new: str
    old_line: str
    new_line: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it the same mutant after edits elsewhere in the file."""
        return self.module, self.function, self.old_line, self.new_line

    def __str__(self) -> str:
        return f"{self.module} {self.function}\n- {self.old_line}\n+ {self.new_line}"


class _Finder(ast.NodeVisitor):
    """Collects the changes that can be made in one module."""

    def __init__(self, module: str, text: str) -> None:
        self.module, self.text, self.functions = module, text, ["<module>"]
        self.found: list[Mutant] = []
        self.lines = text.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.tokens = [
            (self.starts[token.start[0] - 1] + token.start[1], token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type in (tokenize.OP, tokenize.NAME)
        ]

    # Where

    def _at(self, line: int, column: int) -> int:
        """Return the place of what ``ast`` says in bytes of a line's UTF-8."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _replace(self, start: int, stop: int, new: str, within: ast.stmt | None = None) -> None:
        number = self.text.count("\n", 0, start) + 1
        # A bare ``continue`` would not say which one it is.
        first = self.starts[number - 1] if within is None else self._span(within)[0]
        last = self.text.find("\n", stop)
        old_line = " ".join(self.text[first:last].split())
        new_line = " ".join((self.text[first:start] + new + self.text[stop:last]).split())
        self.found.append(Mutant(self.module, self.functions[-1], number, start, stop, new, old_line, new_line))

    def _replace_between(self, left: ast.expr, right: ast.expr, words: Mapping[str, str]) -> None:
        begin, end = self._span(left)[1], self._span(right)[0]
        for place, word in self.tokens:
            if begin <= place < end and word in words:
                self._replace(place, place + len(word), words[word])
                return

    # What is left alone

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Pass over messages."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Pass over assertions, which are there for the type checker."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Pass over the type."""
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Pass over the type."""

    def visit_keyword(self, node: ast.keyword) -> None:
        """Pass over keywords that only guard against mistakes."""
        if node.arg not in _UNTOUCHED_KEYWORDS:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit all but the type of what is returned."""
        self.functions.append(node.name)
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)
        self.functions.pop()

    # What is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        """Move a limit, or turn an equality round."""
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            self._replace_between(left, right, _COMPARISONS)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Swap ``and`` and ``or``."""
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._replace_between(left, right, {"and": "or", "or": "and"})
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Take a ``not`` away."""
        if isinstance(node.op, ast.Not):
            start = self._span(node)[0]
            self._replace(start, start + len("not "), "")
        # -1 mostly means the last one, or all that is left, and -2 then means the same to NumPy.
        if not isinstance(node.operand, ast.Constant) or type(node.operand.value) is not int:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Make a number a little larger or smaller, and true false."""
        start, stop = self._span(node)
        if isinstance(node.value, bool):
            self._replace(start, stop, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(start, stop, str(node.value + 1))
            if node.value > 0:
                self._replace(start, stop, str(node.value - 1))
        elif isinstance(node.value, float):
            self._replace(start, stop, repr(node.value * 1.1 if node.value else 1.0))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Make an index larger only: a smaller one is as often as not the same place, counted from the end."""
        self.visit(node.value)
        if isinstance(node.slice, ast.Constant) and type(node.slice.value) is int:
            self._replace(*self._span(node.slice), str(node.slice.value + 1))
        else:
            self.visit(node.slice)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Swap severities, safeties, verdicts and causes."""
        if isinstance(node.value, ast.Name):
            other = _SWAPPED.get(node.value.id, {}).get(node.attr)
            if other is not None:
                self._replace(*self._span(node), f"{node.value.id}.{other}")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Swap exit codes."""
        if node.id in _EXIT_CODES and isinstance(node.ctx, ast.Load):
            self._replace(*self._span(node), _EXIT_CODES[node.id])

    def visit_If(self, node: ast.If) -> None:
        """Leave out an early end."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        last = node.body[-1]
        if isinstance(last, ast.Continue) or (isinstance(last, ast.Return) and not node.orelse):
            self._replace(*self._span(last), "pass", within=node)
        self.generic_visit(node)


def find_mutants(module: Path, root: Path) -> list[Mutant]:
    """Return all mutants of a module in a checkout, in the order of its text."""
    text = module.read_text(encoding="utf-8")
    finder = _Finder(module.relative_to(root).as_posix(), text)
    finder.visit(ast.parse(text))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.new))
