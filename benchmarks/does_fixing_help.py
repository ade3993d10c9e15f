"""Does fixing help? Real agents are trained on from the sick file, from the fixed one, and from scratch.

Run as ``python -m benchmarks.does_fixing_help run``: it trains whatever has not been trained yet and keeps every
finished run as one line of ``runs.jsonl`` in the work folder, so that it can be stopped and resumed. Then
``python -m benchmarks.does_fixing_help report`` writes the CSV, the tables and the plot of
``docs/does-fixing-help.md``; without the runs, it makes tables and plot again from the CSV.

Needs Stable-Baselines3 and sb3-contrib, which the extra ``[dev]`` brings, and for the plot matplotlib, which nothing
else here needs: ``pip install matplotlib``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.fixing_report import DATA, write_data, write_report
from tests.corpus import HOW_TO_GET_IT, find_corpus

WORK = Path("fixing-study")

EVALUATIONS = 12
"""Evaluations of a run beside the one before its first step."""

EPISODES = 20
"""Episodes of an evaluation, always from the same twenty first states, with the action that the policy likes best."""

EVALUATION_SEED = 500_000


def prepare(case_name: str, arm: str, seed: int, work: Path, corpus: Path) -> Path | None:
    """Return the file that an arm starts from, made if it is not there yet; none for an arm that starts from scratch.

    Raises:
        RuntimeError: If ``ckdoc fix`` did not write the fixed file.
    """
    from benchmarks.fixing_cases import CASES

    case = next(each for each in CASES if each.name == case_name)
    if arm == "scratch":
        return None
    files = work / "files"
    files.mkdir(parents=True, exist_ok=True)
    sick = files / f"{case.illness}-{seed}.zip"
    if not sick.exists():
        unfinished = sick.with_name(f"unfinished-{sick.name}")
        case.fall_ill(seed, unfinished, corpus)
        for made in files.glob(f"unfinished-{sick.stem}*"):
            made.rename(files / made.name.removeprefix("unfinished-"))
    if arm == "sick":
        return sick
    if arm == "intact":
        return sick.with_name(f"{sick.stem}-intact.zip")
    fixed = sick.with_name(f"{sick.stem}_FIXED.zip")
    if not fixed.exists():
        command = [Path(sys.executable).parent / "ckdoc", "fix", *case.fix_options, "--seed", str(seed), sick]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if not fixed.exists():
            raise RuntimeError(f"{' '.join(map(str, command))}: {outcome.stdout}{outcome.stderr}")
    return fixed if arm == "fixed" else keep_moments(sick, fixed)


def keep_moments(sick: Path, fixed: Path) -> Path:
    """Return a file with the parameters of the fixed file and the optimizer of the sick one."""
    mixed = sick.with_name(f"{sick.stem}-stale.zip")
    with zipfile.ZipFile(sick) as old, zipfile.ZipFile(fixed) as new, zipfile.ZipFile(mixed, "w") as out:
        for name in new.namelist():
            out.writestr(name, (old if name.endswith("optimizer.pth") else new).read(name))
    return mixed


def start_from(agent: Any, path: Path) -> None:
    """Give an agent the parameters and the optimizer state of a file, and nothing else of it."""
    from stable_baselines3.common.save_util import load_from_zip_file

    _, parameters, _ = load_from_zip_file(path, load_data=False)
    group = parameters["policy.optimizer"]["param_groups"][0]
    held = len(agent.policy.optimizer.param_groups[0]["params"])
    if len(group["params"]) == 2 * held:
        # Until SB3 2.4 the optimizer of DQN and QRDQN also held the target network; SB3 itself truncates it so.
        group["params"] = group["params"][:held]
    agent.set_parameters(parameters)


def count_dormant(path: Path) -> int:
    """Return how many hidden units of a file receive no gradient, as NET001 tells it."""
    from checkpoint_doctor.acts.scan import open_checkpoint
    from checkpoint_doctor.builtin.analyzers.layers.dormant_units import dormant_units

    return sum(len(finding.evidence["units"]) for finding in dormant_units.examine(open_checkpoint(path)))


def train(job: tuple[str, str, int, Path, Path]) -> dict[str, Any]:
    """Train one arm of a case with one seed, and return its evaluations."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    from benchmarks.fixing_cases import CASES

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    case_name, arm, seed, work, corpus = job
    case = next(each for each in CASES if each.name == case_name)
    start = prepare(case_name, arm, seed, work, corpus)
    began = time.monotonic()
    agent = case.create(seed)
    if start is not None:
        start_from(agent, start)
    steps: list[int] = []
    returns: list[float] = []

    def evaluate() -> None:
        scores, _ = evaluate_policy(
            agent, case.environments(EPISODES, EVALUATION_SEED), EPISODES, return_episode_rewards=True
        )
        steps.append(agent.num_timesteps)
        returns.append(sum(scores) / len(scores))

    class Examination(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps >= case.steps * len(steps) / EVALUATIONS:
                evaluate()
            return True

    evaluate()
    agent.learn(case.steps, callback=Examination())
    end = work / "files" / f"end-{case_name}-{arm}-{seed}.zip"
    end.parent.mkdir(parents=True, exist_ok=True)
    agent.save(end)
    return {
        "case": case_name,
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "returns": returns,
        "files": [None if start is None else start.name, end.name],
        "seconds": round(time.monotonic() - began, 1),
    }


def read_runs(work: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    runs = work / "runs.jsonl"
    return [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []


def plan_jobs(
    options: argparse.Namespace, done: set[tuple[str, str, int]]
) -> Iterator[tuple[str, str, int, Path, Path]]:
    """Yield what is still to be trained: seed by seed, so that an early stop leaves whole comparisons."""
    from benchmarks.fixing_cases import CASES

    for seed in range(options.seeds):
        for case in CASES:
            for arm in case.arms:
                wanted = (not options.case or case.name in options.case) and (not options.arm or arm in options.arm)
                if wanted and (case.name, arm, seed) not in done:
                    yield case.name, arm, seed, options.work, options.corpus


def run(options: argparse.Namespace) -> None:
    """Train what is missing and keep each result as soon as it is there."""
    options.work.mkdir(parents=True, exist_ok=True)
    done = {(each["case"], each["arm"], each["seed"]) for each in read_runs(options.work)}
    jobs = list(plan_jobs(options, done))
    # What several arms start from is made once, before they do.
    with get_context("spawn").Pool(options.jobs, maxtasksperchild=4) as pool:
        seen: dict[tuple[str, int], tuple[str, str, int, Path, Path]] = {}
        for job in jobs:
            if job[1] != "scratch":
                seen.setdefault((illness_of(job[0]), job[2]), (job[0], "sick", *job[2:]))
        pool.starmap(prepare, seen.values(), chunksize=1)
        for number, result in enumerate(pool.imap_unordered(train, jobs), start=1):
            with (options.work / "runs.jsonl").open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(
                f"{number}/{len(jobs)} {result['case']} {result['arm']} {result['seed']}:"
                f" {result['returns'][0]:.0f} → {result['returns'][-1]:.0f} ({result['seconds']:.0f} s)",
                flush=True,
            )


def illness_of(case_name: str) -> str:
    """Return the name that the cases with the same sick files share."""
    from benchmarks.fixing_cases import CASES

    return next(each.illness for each in CASES if each.name == case_name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study or report on it."""
    parser = argparse.ArgumentParser(description="Train on from sick, fixed and fresh agents.")
    parser.add_argument("act", choices=["run", "report"])
    parser.add_argument("--work", type=Path, default=WORK, help="folder for files and finished runs")
    parser.add_argument("--corpus", type=Path, default=find_corpus(), help="folder of the corpus")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes, each on one thread")
    parser.add_argument("--case", action="append", help="only this case (repeatable)")
    parser.add_argument("--arm", action="append", help="only this arm (repeatable)")
    options = parser.parse_args(arguments)
    if options.act == "run":
        if options.corpus is None:
            sys.exit(HOW_TO_GET_IT)
        os.environ["OMP_NUM_THREADS"] = "1"
        run(options)
        return 0
    runs = read_runs(options.work)
    if runs:
        files = options.work / "files"
        write_data([{**run, "silent": [name and count_dormant(files / name) for name in run["files"]]} for run in runs])
    elif not DATA.exists():
        sys.exit("no runs: train them first, with `run`")
    write_report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
