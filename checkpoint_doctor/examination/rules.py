"""Running the rules on an opened checkpoint, and what an examination records of it."""

from __future__ import annotations

from msgspec.structs import replace

from checkpoint_doctor.checkpoint import Checkpoint, LayerSignal, Tensor
from checkpoint_doctor.config.settings import Settings
from checkpoint_doctor.diagnosis.competition import choose_diagnoses, collect_claims
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.plugins.rule import Rule
from checkpoint_doctor.plugins.self_checks import report_crash, report_failure
from checkpoint_doctor.results.findings import Finding, by_severity
from checkpoint_doctor.results.report import Examination, TensorRecord, judge
from checkpoint_doctor.results.resume import find_resumption


def with_ranges(checkpoint: Checkpoint, settings: Settings) -> Checkpoint:
    """Return a checkpoint that is not yet measured with the user's own ranges of settings, by which rules judge it."""
    return replace(checkpoint, ranges=settings.ranges) if settings.ranges else checkpoint


def select_rules(catalogue: Catalogue, settings: Settings) -> list[Rule]:
    """Return the rules about checkpoints that are run."""
    return [rule for rule in catalogue.rules if rule.examines_checkpoints and settings.selects(rule)]


def run_rules(
    checkpoint: Checkpoint, catalogue: Catalogue, settings: Settings, *, with_values: bool = True
) -> Examination:
    """Run every selected rule on an opened checkpoint, and ask the causes what explains the findings.

    A rule or a cause that crashes becomes a finding, and the others go on. Without values, what is recorded of the
    tensors is what their names and shapes tell.

    Raises:
        UnreadableCheckpoint: the bytes of a tensor that a rule needs cannot be read.
    """
    import numpy as np

    failed = (report_failure(f"{each.what} {each.why}", each.what) for each in checkpoint.skipped if each.is_crash)
    findings = [settings.judge(each, checkpoint.path) for each in failed]
    asked = select_rules(catalogue, settings)
    # What is reckoned with damaged numbers overflows or is NaN, and the rules go on from there.
    with np.errstate(all="ignore"):
        for rule in asked:
            try:
                found = list(rule.examine(checkpoint, settings.options(rule)))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a rule may even call sys.exit
                if type(error) is UnreadableCheckpoint:
                    raise
                findings.append(settings.judge(report_crash(rule, error), checkpoint.path))
                continue
            judged_by = checkpoint.path, rule.severity
            findings += [settings.judge(_with_layer(each, checkpoint), *judged_by) for each in found]
        if not checkpoint.is_patchable:
            findings = [replace(each, fix=None) for each in findings]
        claims, crashes = collect_claims(checkpoint, findings, catalogue.causes)
    findings += [settings.judge(each, checkpoint.path) for each in crashes]
    findings.sort(key=by_severity)
    chosen = choose_diagnoses(claims, findings, with_preview=settings.preview)
    diagnoses, judged = settings.judge_diagnoses(chosen, findings, checkpoint.path)
    return Examination(
        path=checkpoint.path,
        format=checkpoint.format,
        verdict=judge(judged, diagnoses),
        algorithm=checkpoint.algorithm,
        step=checkpoint.step,
        versions=checkpoint.versions,
        hyperparameters=checkpoint.hyperparameters,
        layers=len(checkpoint.layers),
        tensors=tuple(_record(tensor, checkpoint, with_values) for tensor in checkpoint.tensors),
        findings=judged,
        diagnoses=diagnoses,
        skipped=checkpoint.skipped,
        parts=checkpoint.files,
        layout=checkpoint.layout,
        resumption=find_resumption(checkpoint, judged),
        asked=tuple(rule.code for rule in asked),
        content=str(checkpoint.metadata.get("content", "")),
    )


def _with_layer(finding: Finding, checkpoint: Checkpoint) -> Finding:
    if finding.layer is None and finding.tensor is not None and finding.tensor in checkpoint.layer_of:
        return replace(finding, layer=checkpoint.layer_of[finding.tensor].name)
    return finding


def _record(tensor: Tensor, checkpoint: Checkpoint, with_values: bool) -> TensorRecord:
    layer = checkpoint.layer_of[tensor.name]
    record = TensorRecord(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        kind=layer.kind.value,
        layer=layer.name,
        updates=checkpoint.updates_of(tensor.name),
        tied_to=checkpoint.aliases.get(tensor.name),
    )
    if not with_values:
        return record
    statistics = tensor.statistics
    is_weight = tensor is layer.weight or tensor is layer.tensors.get("weight_ih")
    signal = checkpoint.signals[layer.name] if is_weight else LayerSignal()
    return replace(
        record,
        zeros=statistics.zeros,
        nonfinite=statistics.nonfinite,
        minimum=statistics.minimum,
        maximum=statistics.maximum,
        mean=statistics.mean,
        std=statistics.std,
        norm=statistics.norm,
        input_rms=signal.input_rms,
        gradient_rms=signal.gradient_rms,
        update_ratio=signal.update_ratio,
    )
