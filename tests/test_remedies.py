"""Lines of code that help against a cause: they compile, their names exist, and the library's own are shown."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from checkpoint_doctor.builtin.causes import _remedies
from checkpoint_doctor.builtin.causes._remedies import Remedy
from checkpoint_doctor.checkpoint import Checkpoint
from tests.diagnosing import claims_of, symptom

REMEDIES: Mapping[str, Remedy] = {name: each for name, each in vars(_remedies).items() if isinstance(each, Remedy)}
LIBRARIES = list(Remedy.__struct_fields__)
LINES = [
    pytest.param(library, line.format(algorithm="PPO", optimizer="policy.optimizer") if library == "sb3" else line,
                 id=f"{name} {library}")
    for name, remedy in REMEDIES.items() for library in LIBRARIES if (line := getattr(remedy, library))
]  # fmt: skip

HOMES = {
    "sb3": ("stable_baselines3", "stable_baselines3.common.vec_env", "stable_baselines3.common.callbacks"),
    "lightning": ("lightning", "lightning.pytorch.callbacks"),
    "transformers": ("transformers",),
    "peft": ("peft", "transformers"),
    "torch": ("torch", "torch.optim.swa_utils"),
}
METHODS = {
    ("sb3", "env"): "VecNormalize", ("sb3", "model"): "PPO",
    ("lightning", "trainer"): "Trainer", ("lightning", "Model"): "LightningModule",
    ("lightning", "self"): "LightningModule",
    ("transformers", "trainer"): "Trainer", ("transformers", "model"): "PreTrainedModel",
    ("peft", "model"): "PreTrainedModel",
}  # fmt: skip
"""What a name in a line is an instance of, or stands for."""
OWN = {"loss"}
"""Methods that the reader's own model has."""


def calls_in(line: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))


def find(library: str, name: str) -> Any:
    """Return what a library calls so, ``None`` where it is not the library's."""
    for home in HOMES[library]:
        module = pytest.importorskip(home)
        if hasattr(module, name):
            return getattr(module, name)
    return None


def resolve(library: str, function: ast.expr) -> Any:
    """Return the function or class that a line calls; ``None`` where it is Python's or the reader's own."""
    parts = ast.unparse(function).split(".")
    if parts[0] == "torch":
        found = importlib.import_module("torch")
        for part in parts[1:]:
            found = getattr(found, part)
        return found
    if len(parts) == 1:
        return find(library, parts[0])
    kind = METHODS.get((library, parts[0]), parts[0])
    owner = find(library, kind)
    return None if owner is None or len(parts) > 2 or parts[1] in OWN else getattr(owner, parts[1])


@pytest.mark.parametrize(("library", "line"), LINES)
def test_a_line_compiles_and_its_names_exist(library: str, line: str) -> None:
    for call in calls_in(line):
        called = resolve(library, call.func)
        if called is None:
            continue
        parameters = inspect.signature(called).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        assert takes_any or {each.arg for each in call.keywords} <= parameters.keys()


def test_settings_that_a_loaded_agent_takes_exist() -> None:
    """``load`` takes any setting, so that the algorithm's constructor has to know it."""
    settings = {
        keyword.arg
        for remedy in REMEDIES.values()
        for call in calls_in(remedy.sb3.format(algorithm="PPO", optimizer="policy.optimizer"))
        if ast.unparse(call.func) in ("PPO", "PPO.load")
        for keyword in call.keywords
    }
    ppo = importlib.import_module("stable_baselines3").PPO
    assert {"max_grad_norm", "learning_rate", "policy_kwargs"} <= settings
    assert settings <= inspect.signature(ppo).parameters.keys()


def wrote(library: str) -> Checkpoint:
    """A checkpoint as this library leaves it."""
    if library == "sb3":
        return Checkpoint("agent.zip", "sb3", (), algorithm="PPO")
    if library == "lightning":
        return Checkpoint("last.ckpt", "torch", (), versions={"pytorch_lightning": "2.6"})
    layout = library if library in ("transformers", "peft") else ""
    return Checkpoint("run", "torch", (), layout=layout)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", REMEDIES)
def test_the_line_is_that_of_the_library_that_wrote_the_file(name: str, library: str) -> None:
    remedy = REMEDIES[name]
    own = getattr(remedy, library) or (remedy.transformers if library == "peft" else "") or remedy.torch
    assert remedy.line(wrote(library)) == own.replace("{algorithm}", "PPO").replace("{optimizer}", "policy.optimizer")


@pytest.mark.parametrize(
    ("cause", "code", "library", "said"),
    [
        ("exploded", "VAL002", "lightning", "gradient_clip_val"),
        ("exploded", "VAL002", "transformers", "max_grad_norm"),
        ("exploded", "VAL002", "torch", "clip_grad_norm_"),
        ("exploded", "VAL002", "sb3", "PPO.load"),
        ("learning-rate-too-high", "OPT008", "lightning", "configure_optimizers"),
        ("learning-rate-too-high", "OPT008", "peft", "TrainingArguments"),
        ("schedule", "RES001", "transformers", "lr_scheduler_type"),
        ("optimizer-reset", "RES002", "transformers", "resume_from_checkpoint"),
        ("poisoned-moments", "OPT007", "lightning", "ckpt_path=None"),
        ("low-precision", "VAL004", "transformers", "bf16=True"),
    ],
)
def test_a_diagnosis_speaks_the_language_of_its_library(cause: str, code: str, library: str, said: str) -> None:
    evidence = {"cause": "too large"} if code == "OPT008" else {}
    (claim,) = claims_of(cause, wrote(library), [symptom(code, **evidence)])
    assert said in claim.remedy


def test_an_agent_without_a_clip_is_told_to_learn_slower() -> None:
    agent = Checkpoint("agent.zip", "sb3", (), algorithm="SAC")
    (claim,) = claims_of("exploded", agent, [symptom("VAL002")])
    assert claim.remedy == "model = SAC.load(path, env=env, learning_rate=1e-4)"


def test_the_optimizer_whose_state_is_poisoned_is_named() -> None:
    agent = Checkpoint("agent.zip", "sb3", (), algorithm="SAC")
    (claim,) = claims_of("poisoned-moments", agent, [symptom("OPT007", optimizer="critic.optimizer")])
    assert claim.remedy == "model.critic.optimizer.state.clear()"
