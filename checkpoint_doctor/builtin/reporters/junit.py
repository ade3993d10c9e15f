"""The report as JUnit XML: one test case for each file and rule that was asked, so that a clean run has passing cases.

A diagnosis has a case of its own, which fails in the place of the cases of the rules that it explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree

from checkpoint_doctor.builtin.reporters._order import rank
from checkpoint_doctor.builtin.reporters._wording import (
    describe,
    explained_in_words,
    headline,
    hidden_by,
    one_line,
    particulars,
    subject_of,
    unsearched_in_words,
)
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.results.diagnosis import Diagnosis
from checkpoint_doctor.results.findings import Finding
from checkpoint_doctor.results.report import Alert, Examination, Page, Report
from checkpoint_doctor.results.totals import title_of
from checkpoint_doctor.text import printable, quantity


class JUnitReporter:
    """Renders a test suite for each checkpoint; the page makes no difference.

    A case fails where a finding of its rule is at or above the report's ``fail_on``, so the suites pass exactly where
    the run does. Lesser findings are in the case's output, and a case with only hidden findings is skipped. A
    checkpoint that cannot be read is an error, and so is a rule that crashed.
    """

    def render(self, report: Report, rules: Sequence[Rule], page: Page) -> str:
        """Return the XML document."""
        root = ElementTree.Element("testsuites", name="checkpoint-doctor")
        root.extend([_write_suite(report, each, rules) for each in report.checkpoints])
        if report.remarks or report.unsearched or report.configuration:
            root.append(_write_remarks(report))
        _count(root)
        ElementTree.indent(root)
        return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _write_suite(report: Report, examination: Examination, rules: Sequence[Rule]) -> ElementTree.Element:
    path = printable(examination.path)
    suite = ElementTree.Element("testsuite", name=path)
    if examination.is_unreadable:
        case = _add_case(suite, path, "readable")
        message = one_line(examination.error or "it could not be read")
        error = ElementTree.SubElement(case, "error", message=message, type="unreadable")
        error.text = "\n".join(filter(None, (message, one_line(examination.hint))))
    else:
        crashes = {each.evidence.get("rule"): each for each in examination.crashes}
        for diagnosis in examination.diagnoses:
            case = _add_case(suite, path, f"diagnosis {diagnosis.title} {subject_of(diagnosis)}".rstrip())
            _write_outcome(case, report, [diagnosis], examination)
        asked = [rule for rule in rules if examination.asked is None or rule.code in examination.asked]
        for name, findings in _cases(examination.findings, asked):
            case = _add_case(suite, path, name)
            crash = crashes.get(name.partition(" ")[0])
            if crash is not None:
                message = one_line(crash.message)
                ElementTree.SubElement(case, "error", message=message, type="crashed").text = _write_details(crash)
            _write_outcome(case, report, findings, examination)
        for skipped in examination.skipped:
            case = _add_case(suite, path, f"looked at {printable(skipped.what)}")
            ElementTree.SubElement(case, "skipped", message=one_line(skipped.why))
        ElementTree.SubElement(suite, "system-out").text = describe(examination)
    _count(suite)
    return suite


def _write_remarks(report: Report) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name="this run")
    for name, findings in _cases(report.remarks, ()):
        case = _add_case(suite, "this run", name)
        for remark in findings:
            if remark in report.left_out:
                ElementTree.SubElement(case, "error", message=one_line(remark.message), type="left out")
        _write_outcome(case, report, findings)
    for words, on_purpose in unsearched_in_words(report):
        case = _add_case(suite, "this run", f"searched {words.partition(':')[0]}")
        if on_purpose:
            ElementTree.SubElement(case, "skipped", message=words)
        else:
            ElementTree.SubElement(case, "error", message=words, type="unreadable").text = words
    if report.configuration:
        ElementTree.SubElement(suite, "system-out").text = one_line(report.configuration)
    _count(suite)
    return suite


def _cases(findings: Sequence[Finding], rules: Sequence[Rule]) -> Iterator[tuple[str, list[Finding]]]:
    """Yield each rule's case with its findings; rules that are not listed have a case where they found something."""
    titles = {rule.code: f"{rule.code} {rule.name}" for rule in rules}
    found: dict[str, list[Finding]] = {code: [] for code in titles}
    for finding in rank(findings):
        found.setdefault(finding.code, []).append(finding)
        titles.setdefault(finding.code, finding.title)
    for code, members in found.items():
        yield titles[code], members


def _add_case(suite: ElementTree.Element, path: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=path, name=name, time="0")


def _write_outcome(
    case: ElementTree.Element, report: Report, alerts: Sequence[Alert], examination: Examination | None = None
) -> None:
    causes = _causes_of(examination)
    failing = [alert for alert in alerts if report.fails(alert) and id(alert) not in causes]
    hidden = [alert for alert in alerts if alert.ignored is not None]
    others = [alert for alert in alerts if alert not in failing and alert not in hidden]

    def details(alert: Alert) -> str:
        explained = f"explained by the diagnosis {causes[id(alert)]}" if id(alert) in causes else ""
        explains = (
            f"explains {explained_in_words(alert, examination)}" if isinstance(alert, Diagnosis) and examination else ""
        )
        return "\n".join(filter(None, (_write_details(alert, examination), explained, explains)))

    if failing:
        message = (
            headline(failing[0])
            if len(failing) == 1
            else f"{quantity(len(failing), 'finding')}: {headline(failing[0])} …"
        )
        failure = ElementTree.SubElement(case, "failure", message=message, type=failing[0].severity.label)
        failure.text = "\n\n".join(map(details, failing))
        others += hidden
    elif hidden:
        reasons = "; ".join(dict.fromkeys(one_line(alert.ignored or "") for alert in hidden))
        ElementTree.SubElement(
            case, "skipped", message=f"{quantity(len(hidden), 'finding')} {hidden_by(hidden[0])}: {reasons}"
        )
    if others:
        ElementTree.SubElement(case, "system-out").text = "\n\n".join(map(details, others))


def _causes_of(examination: Examination | None) -> Mapping[int, str]:
    """Return which cause explains a finding, by the finding's ``id``."""
    if examination is None:
        return {}
    return {
        id(examination.findings[each]): examination.diagnoses[at].title for each, at in examination.diagnosis_of.items()
    }


def _write_details(alert: Alert, examination: Examination | None = None) -> str:
    lines = [f"{alert.severity.label} {title_of(alert)}", headline(alert)]
    lines += [f"{label}: {words}" for label, words in particulars(alert, examination)]
    if alert.ignored is not None:
        lines.append(f"{hidden_by(alert)}: {one_line(alert.ignored)}")
    return "\n".join(lines)


def _count(element: ElementTree.Element) -> None:
    element.set("tests", str(sum(1 for _ in element.iter("testcase"))))
    for attribute, outcome in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(1 for _ in element.iter(outcome))))
    element.set("time", "0")


reporter = JUnitReporter()
