"""Breaks the code on purpose, in one place at a time, and counts the breaks that no test notices.

Run as ``python -m benchmarks.mutants [--count 150] [--seed 0] [--module PATH ...]``. A mutant is the checkout with one
small change in a rule, in what decides about verdicts and exit codes, or in a repair: a comparison that takes in its
limit or leaves it out, ``and`` for ``or``, a ``not`` taken away, a number one higher or lower, a severity swapped, an
early ``return`` or ``continue`` left out. Words, type hints and assertions stay as they are. The mutants of a sample,
which ``--seed`` draws, are made in a copy of the checkout, and the test files that concern the module are run on each.

Mutants that change nothing, or what no test is to hold fast, are listed with the reason in ``mutants_accepted.txt``:
a block for each, as this program prints it, with a line that begins with ``because``. They are not run. The exit code
is 1 where the tests notice less than 90 % of the others.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.mutations import Mutant, find_mutants

ROOT = Path(__file__).parents[1]
ACCEPTED = ROOT / "benchmarks" / "mutants_accepted.txt"
WORKERS = 2
ENOUGH = 0.9
"""Share of the mutants that the tests must notice."""

PAGES = "docs::test_the_rules_pages_are_what_the_code_says"
"""The catalogue tells each rule's own severity, and which repair it has."""
SHARDS = "fix::test_a_sharded_model_gets_new_shards_only_where_something_changed"
"""Shards and their index are written together, which takes several files."""
RULES = "rule_findings rule_findings_network rule_findings_optimizer rule_neighbours thresholds rules_weights"
EVIDENCE = f"evidence {RULES}"
DESIGNS = "weights_by_design kernels parts_that_wait"
"""Weights that look ill and are meant to be so."""
GENERAL = (f"{RULES} promises", "exit_codes", "fix")
TESTS: Mapping[str, Sequence[str]] = {
    "builtin/analyzers/logs/*": ("log_limits log_rules", PAGES),
    "builtin/analyzers/_evidence/courses.py": ("log_limits log_rules",),
    "builtin/analyzers/trends/*": ("trend_limits trend_rules", PAGES),
    "builtin/analyzers/settings/normalizer.py": ("run_setting_limits", "normalizer", PAGES),
    "builtin/analyzers/settings/run_settings.py": ("run_setting_limits", "settings", PAGES),
    "builtin/analyzers/layers/norm_*.py": (DESIGNS, RULES, PAGES),
    "builtin/analyzers/_evidence/cells.py": ("recurrent_cells keras_gates file_borders", EVIDENCE),
    "builtin/analyzers/gradients/live.py": ("rules_gradients thresholds", PAGES),
    "builtin/analyzers/files/containers.py": ("file_borders empty_tensors", RULES, PAGES),
    "builtin/analyzers/files/_executable_names.py": ("evidence_limits file_borders", RULES),
    "builtin/analyzers/optimizer/_untrained_branches.py": ("untrained_branches optimizer_left_out", RULES),
    "builtin/analyzers/optimizer/optimizer.py": (
        "untrained_limits",
        f"optimizer_borders {RULES} untrained_branches optimizer_left_out optimizer_no_gradient parts_that_wait",
        PAGES,
    ),
    "builtin/analyzers/settings/policy.py": ("setting_limits policy_borders policy_rules averages thresholds", PAGES),
    "builtin/analyzers/resuming/averages.py": ("average_limits averages thresholds", PAGES),
    "builtin/analyzers/optimizer/initial_values.py": ("initial_value_limits averages thresholds", PAGES),
    "builtin/analyzers/layers/inputs.py": ("input_limits inputs thresholds", PAGES),
    "builtin/analyzers/settings/optimizer_settings.py": ("setting_limits optimizer_settings thresholds", PAGES),
    "builtin/analyzers/resuming/resuming.py": ("resuming_limits", "resuming thresholds", PAGES),
    "builtin/analyzers/resuming/schedules.py": ("schedule_limits", "resuming thresholds", PAGES),
    "builtin/analyzers/layers/adapters.py": ("file_borders adapters thresholds parts_that_wait", PAGES),
    "builtin/analyzers/layers/copies.py": (
        f"neighbouring_layers copies kernels weights_by_design {RULES} dispensable_parts",
        PAGES,
    ),
    "builtin/analyzers/layers/dormant_units.py": ("dormant_limits dormant_tables", f"{RULES} dormant_units", PAGES),
    "builtin/analyzers/optimizer/gradient_norms.py": (
        "gradient_norm_limits optimizer_borders optimizer_settings rule_findings_optimizer thresholds",
        PAGES,
    ),
    "builtin/analyzers/optimizer/gradients.py": (
        "optimizer_borders optimizer_no_gradient optimizer_settings dispensable_parts thresholds",
        PAGES,
    ),
    "builtin/analyzers/optimizer/second_moments.py": (
        "second_moment_limits optimizer_settings evidence_limits optimizer_borders optimizer_steps thresholds",
        PAGES,
    ),
    "builtin/analyzers/optimizer/step_sizes.py": (
        "evidence_limits optimizer_borders optimizer_steps thresholds",
        PAGES,
    ),
    "builtin/analyzers/layers/unused_rows.py": ("evidence_limits optimizer_borders unused_rows thresholds", PAGES),
    "builtin/analyzers/values/weight_scale.py": ("weight_scale rule_neighbours thresholds", PAGES),
    "builtin/analyzers/optimizer/_dispensable_parts.py": (
        "neighbouring_layers evidence_limits",
        "dispensable_parts parts_that_wait",
    ),
    "builtin/analyzers/_evidence/widths.py": ("neighbouring_layers width_limits", "dispensable_parts"),
    "builtin/analyzers/_zeros/conditions.py": ("width_limits", "dispensable_parts"),
    "builtin/analyzers/layers/dead_inputs.py": ("dormant_limits dormant_tables", f"{RULES} dormant_units", PAGES),
    "builtin/causes/_remedies.py": ("remedies",),
    "builtin/analyzers/optimizer/_unused_parts.py": (
        f"neighbouring_layers dispensable_parts parts_that_wait {RULES} untrained_branches optimizer_left_out",
    ),
    "builtin/analyzers/_evidence/absent_gradients.py": (
        "neighbouring_layers evidence_limits absent_gradients",
        "optimizer_no_gradient",
    ),
    "builtin/analyzers/_evidence/lifted_moments.py": ("lifted_moments",),
    "builtin/analyzers/_evidence/initial_copies.py": (
        "neighbouring_layers average_limits averages policy_rules policy_borders",
    ),
    "builtin/analyzers/_evidence/model_inputs.py": (
        f"first_layers neighbouring_layers inputs dormant_tables {EVIDENCE}",
    ),
    "builtin/analyzers/_evidence/tables.py": (f"neighbouring_layers dormant_tables {EVIDENCE}",),
    "builtin/analyzers/_evidence/travel.py": ("neighbouring_layers resuming_limits", "resuming"),
    "builtin/analyzers/_evidence/initial_parameters.py": ("initial_parameters",),
    "builtin/analyzers/_evidence/unmoved_parameters.py": ("initial_parameters",),
    "builtin/analyzers/_evidence/gradient_activity.py": ("gradient_activity", EVIDENCE),
    "builtin/analyzers/_evidence/inactivity_causes.py": (f"evidence_limits dormant_tables {EVIDENCE}",),
    "builtin/analyzers/_evidence/training.py": (f"neighbouring_layers zero_causes {EVIDENCE}",),
    "builtin/analyzers/_evidence/nonfinite.py": ("neighbouring_layers nonfinite_limits file_borders", EVIDENCE),
    "builtin/analyzers/_evidence/running_statistics.py": (f"evidence_limits {EVIDENCE}",),
    "builtin/analyzers/_evidence/replaced_moments.py": (f"evidence_limits {EVIDENCE}",),
    "builtin/analyzers/_evidence/readers.py": (f"neighbouring_layers {EVIDENCE}",),
    "builtin/analyzers/_evidence/*": (EVIDENCE,),
    "builtin/analyzers/values/nonfinite.py": ("neighbouring_layers nonfinite_limits file_borders", RULES, PAGES),
    "builtin/analyzers/_repairs/*": ("evidence", RULES),
    "builtin/analyzers/_zeros/causes.py": ("zero_causes evidence_limits sparsity", EVIDENCE),
    "builtin/analyzers/_zeros/initial_draws.py": ("initial_draw_limits", "zero_causes parts_that_wait", EVIDENCE),
    "builtin/analyzers/_zeros/biases.py": (f"zero_causes parts_that_wait {EVIDENCE}",),
    "builtin/analyzers/_zeros/by_design.py": (
        f"neighbouring_layers evidence_limits zero_causes parts_that_wait {EVIDENCE}",
    ),
    "builtin/analyzers/_zeros/severity.py": ("zero_causes", EVIDENCE),
    "builtin/analyzers/_zeros/sparsity.py": ("evidence_limits sparsity", EVIDENCE),
    "builtin/analyzers/_zeros/waiting.py": (f"neighbouring_layers parts_that_wait {EVIDENCE}",),
    "builtin/analyzers/_zeros/*": (EVIDENCE,),
    "builtin/analyzers/layers/network.py": ("network_limits", DESIGNS, RULES, PAGES),
    "builtin/analyzers/layers/recurrent.py": ("recurrent_cells keras_gates file_borders", RULES, PAGES),
    "builtin/analyzers/values/*": (DESIGNS, RULES, PAGES),
    "builtin/analyzers/*": (RULES, PAGES),
    "builtin/causes/_facts.py": (
        "causes_facts",
        "causes_gradients causes_inputs causes_optimization causes_values",
    ),
    "builtin/causes/copies.py": ("causes_copies",),
    "builtin/causes/gradients.py": ("causes_limits causes_gradients",),
    "builtin/causes/initialization.py": ("causes_values",),
    "builtin/causes/inputs.py": ("causes_limits causes_inputs",),
    "builtin/causes/normalization.py": ("causes_inputs",),
    "builtin/causes/optimization.py": ("causes_limits causes_optimization",),
    "builtin/causes/optimizer_state.py": ("causes_optimization",),
    "builtin/causes/outcomes.py": ("causes_limits causes_inputs causes_values",),
    "builtin/causes/policy.py": ("causes_copies",),
    "builtin/causes/unused.py": ("causes_gradients",),
    "builtin/causes/written_values.py": ("causes_limits causes_values",),
    "cli/fixing.py": ("fix_results",),
    "cli/scanning.py": ("scan_results", "cli_configured_files asked_rules", "config", "resume_answers", "fleets"),
    "config/unused.py": ("hidden_diagnoses config baseline promises", "log_readers"),
    "config/*": ("hidden_diagnoses config baseline promises", "cli_configured_files"),
    "diagnosis/*": ("causes_limits diagnosis", "preview"),
    "acts/fix.py": ("fix_results",),
    "examination/*": ("scan_results plugins", "promises"),
    "layers/init_rules.py": ("init_rules", EVIDENCE),
    "repair/changes.py": ("planning",),
    "repair/cross_check.py": ("cross_check",),
    "repair/entries.py": ("init_rules planning",),
    "repair/hashing.py": ("hashing",),
    "repair/planning.py": ("planning", "promises"),
    "repair/record.py": ("safe_copy",),
    "repair/safe_copy.py": ("safe_copy",),
    "repair/side_effects.py": ("planning verification",),
    "repair/simulation.py": ("planning",),
    "repair/torch_reader.py": ("torch_reader", "cross_check"),
    "repair/verification.py": ("verification", "promises"),
    "repair/writing.py": ("fix_results", SHARDS),
    "repair/*": ("promises", "fix_writing", "fix"),
    "results/baseline.py": ("hidden_diagnoses baseline identity scan_results", "promises"),
    "results/identity.py": ("baseline identity", "promises"),
    "results/report.py": ("hidden_diagnoses reporter_verdicts scan_results", "report_json", "promises"),
    "acts/scan.py": ("scan_results plugins", "fleets", "promises"),
}
"""Pattern of modules, first match first, to the test files to run: one process for each string, the quickest first."""

MODULES = (
    "builtin/analyzers/**/*.py",
    "builtin/causes/*.py",
    "diagnosis/*.py",
    "results/report.py",
    "results/identity.py",
    "results/baseline.py",
    "config/settings.py",
    "config/unused.py",
    "cli/scanning.py",
    "cli/fixing.py",
    "examination/rules.py",
    "examination/examining.py",
    "acts/scan.py",
    "acts/fix.py",
    "repair/*.py",
    "layers/init_rules.py",
)


def read_accepted(path: Path = ACCEPTED) -> set[tuple[str, str, str, str]]:
    """Return the keys of the accepted mutants.

    Raises:
        ValueError: a block is not what ``Mutant`` prints, followed by the reason.
    """
    accepted = set()
    text = re.sub(r"(?m)^#.*\n", "", path.read_text(encoding="utf-8")) if path.exists() else ""
    for block in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
        form = re.fullmatch(r"(\S+) (\S+)\n- (.*)\n\+ (.*)\nbecause .+", block, re.DOTALL)
        if form is None:
            raise ValueError(f"{path}: this is not an accepted mutant with its reason:\n{block}")
        accepted.add(form.groups())
    return accepted  # type: ignore[return-value]


class Copy:
    """A copy of the checkout to break."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        skipped = shutil.ignore_patterns(".git", ".*", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, folder, ignore=skipped, dirs_exist_ok=True)
        # Bytecode that is checked against the source's hash: mutants follow each other too fast for times of change.
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "checkpoint_doctor"]
        subprocess.run(command, cwd=folder, check=True)
        found = self._python("-c", "import checkpoint_doctor; print(checkpoint_doctor.__file__)", seconds=60)
        if not found.stdout.startswith(str(folder)):
            raise RuntimeError(f"the copy in {folder} would test {found.stdout.strip()}")

    def _python(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def passes(self, tests: str, seconds: float) -> bool:
        """Return whether some test files pass.

        Raises:
            RuntimeError: pytest found nothing to run.
            TimeoutExpired: it takes longer.
        """
        files = [re.sub(r"^(\w+)", r"tests/test_\1.py", each) for each in tests.split()]
        run = self._python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files, seconds=seconds)
        if run.returncode < 0:  # ended by a signal: by the mutant, or because the machine was short of memory
            run = self._python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files, seconds=seconds)
        if run.returncode > 2:
            raise RuntimeError(f"pytest could not run {tests}:\n{run.stdout}{run.stderr}")
        return run.returncode == 0

    def try_mutant(self, mutant: Mutant, seconds: Mapping[str, float]) -> str:
        """Return ``killed``, ``survived`` or ``timeout``."""
        path = self.folder / mutant.module
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: mutant.start] + mutant.new + text[mutant.stop :], encoding="utf-8")
        try:
            for tests in tests_for(mutant.module):
                if not self.passes(tests, seconds[tests]):
                    return "killed"
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            path.write_text(text, encoding="utf-8")
        return "survived"


def tests_for(module: str) -> Sequence[str]:
    """Return the test files that concern a module, by process."""
    inside = module.removeprefix("checkpoint_doctor/")
    return next((tests for pattern, tests in TESTS.items() if fnmatchcase(inside, pattern)), GENERAL)


def time_tests(copy: Copy, name: str) -> float:
    """Run test files on the sound code, and return the seconds after which a mutant counts as hanging.

    Raises:
        RuntimeError: they fail without any change.
    """
    start = time.monotonic()
    if not copy.passes(name, 600):
        raise RuntimeError(f"{name} fails on the code as it is")
    return 30 + 4 * (time.monotonic() - start)


@contextmanager
def _borrowed(free: queue.Queue[Copy]) -> Iterator[Copy]:
    copy = free.get()
    try:
        yield copy
    finally:
        free.put(copy)


def main() -> int:
    """Run from the command line; the exit code is 1 where the tests notice too little."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="size of the sample; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", metavar="PATH", help="only this module, or all in this folder")
    options = parser.parse_args()
    modules = sorted({path for pattern in MODULES for path in (ROOT / "checkpoint_doctor").glob(pattern)})
    if options.module:
        wanted = [Path(each).resolve() for each in options.module]
        modules = [path for path in modules if any(path.is_relative_to(each) for each in wanted)]
    mutants = [mutant for path in modules for mutant in find_mutants(path, ROOT)]
    if options.count and options.count < len(mutants):
        chosen = sorted(random.Random(options.seed).sample(range(len(mutants)), options.count))
        mutants = [mutants[index] for index in chosen]
    accepted = read_accepted()
    tried = [mutant for mutant in mutants if mutant.key not in accepted]
    print(f"{len(mutants)} mutants of {len({mutant.module for mutant in mutants})} modules", flush=True)
    names = list(dict.fromkeys(name for mutant in tried for name in tests_for(mutant.module)))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants") as folder, ThreadPoolExecutor(WORKERS) as pool:
        free: queue.Queue[Copy] = queue.Queue()
        for number in range(WORKERS):
            free.put(Copy(Path(folder) / str(number)))

        def time_one(name: str) -> float:
            with _borrowed(free) as copy:
                return time_tests(copy, name)

        seconds = dict(zip(names, pool.map(time_one, names), strict=True))

        def try_one(mutant: Mutant) -> str:
            with _borrowed(free) as copy:
                return copy.try_mutant(mutant, seconds)

        for mutant, outcome in zip(tried, pool.map(try_one, tried), strict=True):
            counts[outcome] += 1
            print(f"\n{outcome}, line {mutant.number}\n{mutant}", flush=True)
    noticed = counts["killed"] + counts["timeout"]
    share = noticed / len(tried) if tried else 1.0
    print(
        f"\nkilled {noticed} of {len(mutants)} ({share:.0%} of those not accepted), "
        f"{len(mutants) - len(tried)} accepted, {counts['survived']} survived"
    )
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
