"""The loader of Stable-Baselines3 zips, from version 0.8 on: settings as JSON and PyTorch files in one archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._optimizers.state import is_optimizer
from checkpoint_doctor.builtin.loaders._patching.places import can_change_any, checksum_of
from checkpoint_doctor.builtin.loaders._pickle.tensors import PickledTensor
from checkpoint_doctor.builtin.loaders._zip.archive import ZipArchive, first_name, is_zip, list_names, open_archive
from checkpoint_doctor.builtin.loaders.sb3.algorithm import infer_algorithm, is_standard_policy
from checkpoint_doctor.builtin.loaders.sb3.companions import find_companions
from checkpoint_doctor.builtin.loaders.sb3.data import Settings, read_settings
from checkpoint_doctor.builtin.loaders.sb3.optimizers import read_named_optimizer
from checkpoint_doctor.builtin.loaders.sb3.versions import read_versions
from checkpoint_doctor.builtin.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.builtin.loaders.torch.settings_beside import read_settings_beside
from checkpoint_doctor.checkpoint import Checkpoint, Checksum, Flaw, Optimizer, Patch, PickledName, Skipped, Tensor
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Source

POLICY = "policy.pth"
OPTIMIZER_ENDING = "optimizer.pth"


class StableBaselines3Loader(Struct, frozen=True):
    """Opens what ``model.save()`` of Stable-Baselines3 and sb3-contrib writes."""

    name: str = "sb3"
    suffixes: tuple[str, ...] = (".zip",)

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            if not is_zip(source):
                return False
            try:
                names = set(list_names(source))
            except UnreadableCheckpoint:
                return first_name(source) == "data"  # the member that SB3 writes first
            if POLICY in names or "_stable_baselines3_version" in names:
                return True
            return "data" in names and any(name.endswith(".pth") and "/" not in name for name in names)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``."""
        return _Opening(open_archive(source)).finish(source)

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place

        return patch_in_place(changes)


class _Opening(Struct):
    """A zip that is being read, member by member."""

    archive: ZipArchive
    tensors: list[Tensor] = field(default_factory=list)
    optimizers: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Name and state dict, which are matched with the tensors when all are read."""
    flaws: list[Flaw] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    names: list[PickledName] = field(default_factory=list)
    checksums: list[Checksum] = field(default_factory=list)

    def finish(self, source: Source) -> Checkpoint:
        members = self.archive.members
        self.flaws += self.archive.flaws
        self.checksums += [checksum_of(member) for member in members.values()]
        settings = self._read_settings()
        if POLICY in members:
            self._add_tensors(read_archive(members[POLICY].source, POLICY), "")
        else:
            self.flaws.append(Flaw("the member with the model's tensors is missing", POLICY))
        for name in members:
            if name.endswith(".pth") and name != POLICY:
                self._read_member(name)
        algorithm = infer_algorithm(settings, [tensor.name for tensor in self.tensors])
        self._check_optimizers(algorithm)
        optimizers = tuple(self._name_optimizers(is_standard_policy(settings)))
        versions, metadata = read_versions(members)
        companions = find_companions(source)
        beside = read_settings_beside(source, settings.hyperparameters)
        return Checkpoint(
            path=source.name,
            format="sb3",
            tensors=tuple(self.tensors),
            optimizers=optimizers,
            hyperparameters={**beside.numbers, **settings.hyperparameters},
            algorithm=algorithm,
            step=settings.count("num_timesteps"),
            updates=settings.count("_n_updates"),
            versions=versions,
            metadata={**metadata, **_known_facts(settings, algorithm)},
            parts=tuple(companions.parts),
            flaws=tuple(self.flaws),
            checksums=tuple(self.checksums),
            pickled_names=(*self.names, *companions.names),
            skipped=(*self.skipped, *companions.skipped, *beside.skipped),
            is_patchable=can_change_any(self.tensors),
        )

    def _read_settings(self) -> Settings:
        if "data" not in self.archive.members:
            self.skipped.append(Skipped("the settings (data)", "the zip has no such member"))
            return Settings()
        settings = read_settings(self.archive.members["data"])
        self.names += settings.names
        self.skipped += settings.skipped
        return settings

    def _read_member(self, name: str) -> None:
        """Read a member beside the policy; damage to it does not affect the others."""
        try:
            archive = read_archive(self.archive.members[name].source, name)
            if name.endswith(OPTIMIZER_ENDING):
                self._add_archive(archive)
                self._add_optimizer(archive, name)
            else:
                self._add_tensors(archive, f"{name}/")
        except UnreadableCheckpoint as error:
            self.flaws.append(Flaw(error.message, name))

    def _add_optimizer(self, archive: Archive, name: str) -> None:
        if is_optimizer(archive.root):
            self.optimizers.append((name.removesuffix(".pth"), archive.root))
        else:
            self.skipped.append(Skipped(name, "it does not contain an optimizer's state dict"))

    def _add_tensors(self, archive: Archive, prefix: str) -> None:
        self._add_archive(archive)
        if not isinstance(archive.root, dict):
            self.skipped.append(Skipped(prefix.rstrip("/") or POLICY, "it does not contain a dictionary of tensors"))
            return
        for key, value in archive.root.items():
            if isinstance(value, PickledTensor):
                tensor = value.as_tensor(f"{prefix}{key}")
                if isinstance(tensor, Tensor):
                    self.tensors.append(tensor)
                else:
                    self.skipped.append(tensor)
            elif value is not None:  # early versions stored None for what a model did not have
                self.skipped.append(Skipped(f"{prefix}{key}", f"it is not a tensor but {type(value).__name__}"))

    def _add_archive(self, archive: Archive) -> None:
        self.flaws += archive.flaws
        self.names += archive.pickled_names
        self.checksums += archive.checksums

    def _name_optimizers(self, is_standard: bool) -> Iterator[Optimizer]:
        budget = self.archive.source.budget
        for name, state in self.optimizers:
            try:
                yield read_named_optimizer(name, state, self.tensors, budget, is_standard=is_standard)
            except UnreadableCheckpoint as error:
                self.flaws.append(Flaw(error.message, f"{name}.pth"))

    def _check_optimizers(self, algorithm: str | None) -> None:
        """Report missing optimizers without which Stable-Baselines3 does not load the model."""
        for name in _required_optimizers(algorithm):
            if name not in self.archive.members:
                self.flaws.append(Flaw("it is missing, and Stable-Baselines3 does not load the model without it", name))


ON_POLICY = frozenset({"PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO", "ARS"})
"""Algorithms that keep the original observation only where the environment is a ``VecNormalize``; others always do."""


def _known_facts(settings: Settings, algorithm: str | None) -> Mapping[str, str]:
    if algorithm in ON_POLICY:
        return settings.facts
    return {key: value for key, value in settings.facts.items() if key != "observations"}


def _required_optimizers(algorithm: str | None) -> Iterable[str]:
    if algorithm in ("SAC", "TQC", "CrossQ", "TD3", "DDPG"):
        return ("actor.optimizer.pth", "critic.optimizer.pth")
    if algorithm in ("PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO", "DQN", "QRDQN"):
        return ("policy.optimizer.pth",)
    return ()


loader = StableBaselines3Loader()
