"""Reports that show every reporter everything it must be able to say."""

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Skipped, Tensor
from checkpoint_doctor.plugins.rule import Rule, rule
from checkpoint_doctor.results.diagnosis import Certainty, Diagnosis, Prognosis
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity
from checkpoint_doctor.results.report import Examination, Report, TensorRecord, Verdict


@rule("ZER003", "zero-bias", Severity.WARNING, on=Tensor, fix=Safety.SAFE)
def zero_bias(tensor: Tensor):
    """A bias is exactly zero.

    Why it matters:
        A layer without a bias only turns about the origin.

    When it is normal:
        At step 0.

    What to do:
        Look for code that resets biases | <b>tables</b>.

    References:
        The PyTorch manual.
    """
    yield from ()


@rule("NET001", "dormant-units", Severity.WARNING, on=Tensor)
def dormant_units(tensor: Tensor):
    """Hidden units receive no gradient."""
    yield from ()


@rule("FIL004", "code-in-schedule", Severity.NOTE, on=Tensor)
def code_in_schedule(tensor: Tensor):
    """A schedule is stored as code."""
    yield from ()


RULES: tuple[Rule, ...] = (code_in_schedule, dormant_units, zero_bias)


def record(name: str, shape: tuple[int, ...], layer: str, **fields: object) -> TensorRecord:
    values = {
        "dtype": "float32", "kind": "linear", "updates": 990000, "zeros": 0, "nonfinite": 0,
        "minimum": -0.25, "maximum": 0.25, "mean": 0.0, "std": 0.125, "norm": 1.5,
    }  # fmt: skip
    return TensorRecord(name=name, shape=shape, layer=layer, **{**values, **fields})


ZERO_BIAS = Finding(
    code="ZER003",
    name="zero-bias",
    severity=Severity.ERROR,
    message="All 3 entries are exactly zero, though the second moment shows 990,000 updates: something overwrote them.",
    tensor="actor.mu.bias",
    layer="actor.mu",
    evidence={"zero_fraction": 1.0, "cause": "overwritten", "updates": 990000},
    repairs=(Repair("actor.mu.bias", "uniform(-0.01, 0.01)", lambda old, random: old),),
    fix=Safety.SAFE,
    advice="Look for code that resets biases after training.",
)
DORMANT_UNITS = Finding(
    code="NET001",
    name="dormant-units",
    severity=Severity.WARNING,
    message="140 of 256 units receive no gradient.",
    layer="actor.latent_pi.0",
    evidence={"units": list(range(140)), "share": 140 / 256, "stopped": None},
    fix=Safety.ON_REQUEST,
)
SCHEDULE = Finding(
    code="FIL004",
    name="code-in-schedule",
    severity=Severity.NOTE,
    message="lr_schedule is stored as code of Python 3.9.",
    evidence={"version": "3.9"},
)
HIDDEN = Finding(
    code="ZER003",
    name="zero-bias",
    severity=Severity.ERROR,
    message="All 256 entries are exactly zero.",
    tensor="critic.qf0.0.bias",
    layer="critic.qf0.0",
    ignored="by design, since 2024",
)

ILL = Examination(
    path="runs/model.zip",
    format="sb3",
    verdict=Verdict.ILL,
    algorithm="SAC",
    step=990000,
    versions={"stable_baselines3": "2.4.0", "torch": "2.4.1"},
    layers=3,
    tensors=(
        record("actor.latent_pi.0.weight", (256, 11), "actor.latent_pi.0", norm=4.5),
        record("actor.latent_pi.0.bias", (256,), "actor.latent_pi.0"),
        record("actor.mu.weight", (3, 256), "actor.mu", zeros=1),
        record("actor.mu.bias", (3,), "actor.mu", zeros=3, minimum=0.0, maximum=0.0, std=0.0, norm=0.0),
        record("critic.qf0.0.weight", (256, 14), "critic.qf0.0", updates=None),
        record("critic.qf0.0.bias", (256,), "critic.qf0.0", updates=None, zeros=256, norm=0.0),
    ),
    findings=(DORMANT_UNITS, HIDDEN, SCHEDULE, ZERO_BIAS),
    skipped=(Skipped("pytorch_variables.pth", "its pickle asks for a class that is not known"),),
)
HEALTHY = Examination(
    path="runs/best.zip",
    format="sb3",
    verdict=Verdict.HEALTHY,
    algorithm="PPO",
    step=1,
    layers=1,
    tensors=(record("value_net.weight", (1, 64), "value_net", updates=320, norm=2.0),),
    findings=(SCHEDULE,),
)
UNREADABLE = Examination(
    path="runs/broken.zip",
    format=None,
    verdict=Verdict.UNREADABLE,
    error="runs/broken.zip ends at byte 1,024, but 4,096 bytes are expected from byte 0 on",
    hint="the file is truncated: copy or download it again",
)
ODD = Examination(
    path="runs/[red]odd\x1b[31m: 100%,|`<b>`é\udcff.pt",
    format="torch",
    verdict=Verdict.HEALTHY,
    layers=1,
    tensors=(
        record(
            "[bold]net\x1b]0;x\x07.0\u202eweight", (2, 2), "[bold]net", kind="layer_norm", updates=None, nonfinite=1
        ),
    ),
    findings=(
        Finding(
            code="ACM001",
            name="odd-name",
            severity=Severity.WARNING,
            message="first line\nsecond | *line* with `ticks`, 100% of <script>\x1b[2J",
            tensor="[bold]net\x1b]0;x\x07.0\u202eweight",
            layer="[bold]net",
            evidence={"value": float("nan"), "|": ["`", "a::b"]},
            fix=Safety.UNSAFE,
        ),
    ),
)

UNUSED = Finding(
    code="CKD002",
    name="unused-ignore",
    severity=Severity.NOTE,
    message="the ignore of VAL003 in ckdoc.toml matched nothing",
    advice="Remove it.",
)

DIAGNOSED = replace(
    ILL,
    findings=(*ILL.findings, replace(ZERO_BIAS, tensor="critic.qf0.0.bias", layer="critic.qf0.0")),
    diagnoses=(
        Diagnosis(
            cause="overwritten",
            certainty=Certainty.PROVEN,
            severity=Severity.ERROR,
            message="actor.mu.bias and 1 more were trained, and then overwritten | <b>by code</b>",
            explains=(3, 4),
            summary="Code wrote values over trained ones.",
            evidence={"tensors": ["actor.mu.bias", "critic.qf0.0.bias"]},
            advice="Look for code that resets biases after training.",
            remedy="model.policy.load_state_dict(best)",
            prognosis=Prognosis.CURED,
        ),
    ),
)

CLINIC = Report(checkpoints=(HEALTHY, ILL, ODD, UNREADABLE), rules=41, remarks=(UNUSED,))
"""Several files: ill, healthy, unreadable and oddly named; findings of every severity, hidden ones, skipped things."""
ONE_ILL = Report(checkpoints=(ILL,), rules=41)
ONE_HEALTHY = Report(checkpoints=(HEALTHY,), rules=41)
ONE_UNREADABLE = Report(checkpoints=(UNREADABLE,), rules=41)
CLEAN = Report(
    checkpoints=(Examination("a.zip", "sb3", Verdict.HEALTHY, layers=1, tensors=(record("a.weight", (2, 2), "a"),)),),
    rules=3,
)
REPORTS = {
    "clinic": CLINIC, "ill": ONE_ILL, "healthy": ONE_HEALTHY, "unreadable": ONE_UNREADABLE, "clean": CLEAN,
    "diagnosed": Report(checkpoints=(DIAGNOSED,), rules=41),
    "nothing": Report(checkpoints=(), rules=0), "remark": replace(CLEAN, remarks=(UNUSED,)),
}  # fmt: skip
