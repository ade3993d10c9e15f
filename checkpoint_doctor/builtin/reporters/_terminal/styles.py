"""How verdicts and severities look in a terminal, as styles of rich."""

from __future__ import annotations

from checkpoint_doctor.results.findings import Severity
from checkpoint_doctor.results.report import Verdict

VERDICT_WORDS = {verdict: verdict.value.upper() for verdict in Verdict}
VERDICT_STYLES = {
    Verdict.HEALTHY: "bold green",
    Verdict.ILL: "bold red",
    Verdict.INCOMPLETE: "bold magenta",
    Verdict.UNREADABLE: "bold magenta",
}
SEVERITY_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
SEVERITY_SIGNS = {Severity.ERROR: "✖", Severity.WARNING: "▲", Severity.NOTE: "●"}
