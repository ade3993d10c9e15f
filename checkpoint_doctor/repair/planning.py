"""What to change in a checkpoint to repair it: pure and reproducible, nothing is written.

The repairs of all findings are brought together. Several repairs of one tensor are applied in the order of the rules'
codes, tied tensors are repaired once, target networks get the values of their online network, and the optimizer's
moments change along with the entries that change. What cannot be repaired is part of the plan too, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from checkpoint_doctor.checkpoint import Checkpoint, Moments, Tensor
from checkpoint_doctor.repair.changes import Change, Plan, Purpose, Unfixed, Upstream
from checkpoint_doctor.repair.entries import EPSILON, differs, generator, round_toward_zero, typical_square, widen
from checkpoint_doctor.results.findings import Finding, Repair, Safety, Severity

_FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer", "grad_avg"})
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf", "sum"})

_FLAGS = {Safety.ON_REQUEST: "--recycle", Safety.UNSAFE: "--unsafe"}


class _Work(Struct, eq=False):
    """A tensor while repairs are applied to it."""

    tensor: Tensor
    values: NDArray
    """Current values, in the tensor's own type."""
    repairs: list[tuple[Finding, Repair]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    tied: tuple[str, ...] = ()


def plan_repairs(
    checkpoint: Checkpoint,
    findings: Iterable[Finding],
    *,
    allowed: frozenset[Safety] = frozenset({Safety.SAFE}),
    least: Severity = Severity.WARNING,
    seed: int = 0,
) -> Plan:
    """Bring the repairs of findings together into one plan.

    Findings below ``least``, hidden ones and those in preview are passed over. Each tensor has a random generator of
    its own, seeded by ``seed`` and the tensor's name, so that its values do not depend on what else is repaired.
    """
    # Old values may be anything, and new ones are not: those that would be are refused by the verification.
    with np.errstate(all="ignore"):
        return _Planner(checkpoint, allowed, seed).plan(
            sorted((each for each in findings if each.counts and each.severity >= least), key=lambda each: each.code)
        )


class _Planner:
    def __init__(self, checkpoint: Checkpoint, allowed: frozenset[Safety], seed: int) -> None:
        self.checkpoint, self.allowed, self.seed = checkpoint, allowed, seed
        self.works: dict[str, _Work] = {}
        self.unfixed: list[Unfixed] = []
        self.fixed: list[Finding] = []
        self.optimizer_tensors = tensors_of_optimizers(checkpoint)

    def plan(self, findings: Sequence[Finding]) -> Plan:
        for finding in findings:
            why = self._refuse(finding)
            if why:
                self.unfixed.append(_leave(finding, why))
                continue
            self.fixed.append(finding)
            for repair in finding.repairs:
                self._admit(finding, repair)
        changes = [*self._repairs(), *self._targets()]
        changes += self._moments({each.tensor.name: each for each in changes})
        upstream = dict.fromkeys(Upstream(name_subject(each), each.advice) for each in self.fixed if each.advice)
        return Plan(tuple(changes), tuple(self.unfixed), tuple(upstream), tuple(self.fixed))

    # Which repairs

    def _refuse(self, finding: Finding) -> str:
        """Say why a finding is left alone; empty where all its repairs can be made."""
        if not finding.repairs:
            return "there is no documented repair for it"
        forbidden = {repair.safety for repair in finding.repairs} - self.allowed
        if forbidden:
            return f"it needs {' and '.join(sorted(_FLAGS.get(each, each.value) for each in forbidden))}"
        for repair in finding.repairs:
            tensor = self._find(repair.tensor)
            if tensor is None:
                return f"{repair.tensor} is not in the file"
            rival = self._overlap(tensor)
            if rival:
                return f"{tensor.name} shares some of its bytes with {rival}, which is repaired already"
        return ""

    def _find(self, name: str) -> Tensor | None:
        return self.checkpoint.by_name.get(name) or self.optimizer_tensors.get(name)

    def _overlap(self, tensor: Tensor) -> str:
        """Return the name of a tensor at work that shares some, but not all bytes with this one."""
        start, stop = tensor.storage_range
        for work in self.works.values():
            other = work.tensor
            if not tensor.storage or other.storage != tensor.storage:
                continue
            begin, end = other.storage_range
            if start < end and begin < stop and not (tensor.is_tied_to(other) and tensor.shape == other.shape):
                return other.name
        return ""

    def _admit(self, finding: Finding, repair: Repair) -> None:
        tensor = self._find(repair.tensor)
        assert tensor is not None
        tied = self._tied(tensor)
        first = self._find(tied[0]) or tensor
        work = self.works.get(first.name)
        if work is None:
            work = self.works[first.name] = _Work(first, first.array, tied=tied[1:])
        work.repairs.append((finding, repair))

    def _tied(self, tensor: Tensor) -> tuple[str, ...]:
        """Return all names of the same bytes, in file order, the tensor's own among them."""
        aliases = self.checkpoint.aliases
        first = aliases.get(tensor.name, tensor.name)
        return first, *(name for name, other in aliases.items() if other == first)

    # What they do

    def _repairs(self) -> Iterator[Change]:
        for work in self.works.values():
            if work.tensor.name in self.optimizer_tensors or self._online_tensor(work) is not None:
                continue  # moments follow below, and target networks take the values of their online network
            self._apply(work)
            change = self._finish(work, Purpose.REPAIR)
            if change is not None:
                yield change

    def _online_tensor(self, work: _Work) -> Tensor | None:
        """Return the tensor that a target network's follows; ``None`` where it follows none, or its own bytes."""
        online = self.checkpoint.find_tensor(self.checkpoint.online_tensors.get(work.tensor.name))
        return None if online is None or self._tied(online)[0] == work.tensor.name else online

    def _apply(self, work: _Work) -> None:
        random = generator(self.seed, work.tensor.name)
        # Two findings may ask for the same: a bias of its own and of its component, a tensor under either of two names.
        for repair in {repair.init_rule: repair for _, repair in work.repairs}.values():
            new = round_toward_zero(np.asarray(repair.renew(widen(work.values), random)), work.values)
            if differs(work.values, new).any():  # an earlier one may have done all there was to do
                work.words.append(repair.init_rule)
            work.values = new

    def _finish(self, work: _Work, purpose: Purpose, of: str = "") -> Change | None:
        changed = differs(work.tensor.array, work.values)
        if not changed.any():
            return None
        return Change(
            tensor=work.tensor,
            purpose=purpose,
            rules=tuple(dict.fromkeys(finding.code for finding, _ in work.repairs)),
            init_rule="; ".join(dict.fromkeys(work.words)),
            new=work.values,
            changed=changed,
            of=of,
            illness="; ".join(dict.fromkeys(finding.message for finding, _ in work.repairs)),
            tied=work.tied,
        )

    def _targets(self) -> Iterator[Change]:
        """Yield the target networks' tensors: at repaired entries they get the values of the online network."""
        for name, online_name in self.checkpoint.online_tensors.items():
            target, online = self.checkpoint.by_name[name], self.checkpoint.by_name[online_name]
            canonical = self._tied(online)[0]
            source, work = self.works.get(canonical), self.works.get(self._tied(target)[0])
            if self._tied(target)[0] != name or canonical in self._tied(target) or (source is None and work is None):
                continue
            healthy = online.array if source is None else source.values
            changed = differs(online.array, healthy)
            with np.errstate(over="ignore"):  # the target network may be of a narrower type
                healthy = healthy.astype(target.array.dtype)
            work = work or _Work(target, target.array, tied=self._tied(target)[1:])
            if source is not None:
                work.values = np.where(changed, healthy, work.values).astype(healthy.dtype)
                work.words.append(f"the values of {online_name}")
            if work.repairs:
                before = work.values
                self._apply(work)
                # Where the online network has a sound value, that is what the target should have; drawn ones are not.
                sound = differs(before, work.values) & np.isfinite(widen(healthy)) & (healthy != 0)
                work.values = np.where(sound, healthy, work.values).astype(healthy.dtype)
            change = self._finish(work, Purpose.TARGET, of=online_name)
            if change is not None:
                yield change

    # The optimizer

    def _moments(self, changed_tensors: Mapping[str, Change]) -> Iterator[Change]:
        for optimizer in self.checkpoint.optimizers:
            for moments in optimizer.parameters:
                along = changed_tensors.get(self._canonical(moments))
                for key, tensor in moments.state.items():
                    if tensor is moments.first and moments.second is None and along is not None and along.changed.all():
                        # It is the only record that the tensor was trained, and is forgotten within some updates.
                        continue
                    change = self._change_moment(key, tensor, along)
                    if change is not None:
                        yield change
            for setting in (each for group in optimizer.groups for each in group.settings.values()):
                work = self.works.get(setting.name)
                if work is not None:
                    self._apply(work)
                    change = self._finish(work, Purpose.SETTING)
                    if change is not None:
                        yield change

    def _canonical(self, moments: Moments) -> str:
        tensor = self.checkpoint.find_tensor(moments.tensor)
        return "" if tensor is None else self._tied(tensor)[0]

    def _change_moment(self, key: str, tensor: Tensor, along: Change | None) -> Change | None:
        work = self.works.get(tensor.name)
        concerned = along is not None and tensor.is_floating and tensor.shape == along.tensor.shape
        if work is None and not (concerned and key in _FIRST_MOMENTS | _SECOND_MOMENTS):
            return None
        work = work or _Work(tensor, tensor.array)
        self._apply(work)
        if concerned and along is not None:
            if key in _FIRST_MOMENTS:
                work.values = np.where(along.changed, 0, work.values).astype(tensor.array.dtype)
                work.words.append("0")
            elif key in _SECOND_MOMENTS:
                typical = typical_square(work.values, along.changed, least=EPSILON if key == "exp_inf" else EPSILON**2)
                work.values = np.where(along.changed, typical, work.values).astype(tensor.array.dtype)
                work.words.append(f"the median of the healthy entries, {typical:.3g}" if typical else "0")
        of = along.tensor.name if along is not None else ""
        return self._finish(work, Purpose.MOMENT, of=of)


def tensors_of_optimizers(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return the tensors that the optimizers hold, by name: moments, and settings that can be replaced."""
    kept = {
        tensor.name: tensor
        for optimizer in checkpoint.optimizers
        for moments in optimizer.parameters
        for tensor in moments.state.values()
    }
    groups = (group for optimizer in checkpoint.optimizers for group in optimizer.groups)
    return kept | {setting.name: setting for group in groups for setting in group.settings.values()}


def name_subject(finding: Finding) -> str:
    """Return what a finding is about: the tensor, the layer, or the whole checkpoint."""
    return finding.subject or "the whole checkpoint"


def _leave(finding: Finding, why: str) -> Unfixed:
    return Unfixed(
        finding.code, finding.name, finding.severity, name_subject(finding), finding.message, why, finding.advice
    )
