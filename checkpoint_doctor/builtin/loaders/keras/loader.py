"""The loader of Keras models: ``.keras`` archives, and HDF5 files of weights or of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from numpy.typing import NDArray

from checkpoint_doctor.builtin.loaders._patching.places import checksum_of
from checkpoint_doctor.builtin.loaders._zip.archive import ZipArchive, is_zip, list_names, open_archive
from checkpoint_doctor.checkpoint import Checkpoint, Patch, Tensor
from checkpoint_doctor.errors import NotACheckpoint, RepairFailed, UnreadableCheckpoint
from checkpoint_doctor.sources import Source, read_json
from checkpoint_doctor.text import shown

if TYPE_CHECKING:
    from checkpoint_doctor.builtin.loaders.keras.layouts import Parameters

SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCKS = (0, 512, 1024, 2048)
"""Offsets where the signature is looked for: HDF5 allows a block of the user's before it."""

WEIGHTS, METADATA, CONFIG = "model.weights.h5", "metadata.json", "config.json"
LONGEST_BEGINNING = 1 << 20
"""Bytes in which the words of Keras are looked for where h5py is not installed."""
LONGEST_METADATA = 1 << 16
LONGEST_CONFIG = 1 << 24


class KerasLoader(Struct, frozen=True):
    """Opens ``*.keras``, ``*.weights.h5`` and ``*.h5``."""

    name: str = "keras"
    suffixes: tuple[str, ...] = (".keras", ".h5", ".hdf5")

    def recognizes(self, source: Source) -> bool:
        """See ``Loader.recognizes``."""
        try:
            if _is_hdf5(source):
                return True
            return is_zip(source) and WEIGHTS in list_names(source)
        except UnreadableCheckpoint:
            return False

    def open(self, source: Source) -> Checkpoint:
        """See ``Loader.open``.

        Raises:
            NotACheckpoint: it is an HDF5 file of something else.
            UnreadableCheckpoint: it is damaged, or h5py is not installed.
        """
        if _is_hdf5(source):
            return self._build(source.name, _read(source))
        archive = open_archive(source)
        return self._build(source.name, _read(archive.members[WEIGHTS].source, _read_config(archive)), archive)

    def _build(self, path: str, parameters: Parameters, archive: ZipArchive | None = None) -> Checkpoint:
        from checkpoint_doctor.builtin.loaders.keras.hdf5 import PackedValues

        state = parameters.state
        rate = state.learning_rate if state is not None else None
        return Checkpoint(
            path=path,
            format=self.name,
            tensors=tuple(parameters.tensors),
            hyperparameters={} if rate is None else {"learning_rate": rate},
            optimizers=parameters.optimizers,
            updates=state.iteration if state is not None else None,
            versions=_read_versions(archive) if archive is not None else {},
            flaws=tuple(archive.flaws) if archive is not None else (),
            checksums=tuple(checksum_of(each) for each in archive.members.values()) if archive is not None else (),
            skipped=tuple(parameters.skipped),
            is_patchable=any(not isinstance(each.values, PackedValues) for each in parameters.tensors),
        )

    def patch(self, checkpoint: Checkpoint, changes: Mapping[Tensor, NDArray]) -> Mapping[Source, Sequence[Patch]]:
        """See ``Loader.patch``."""
        from checkpoint_doctor.builtin.loaders._patching.in_place import patch_in_place
        from checkpoint_doctor.builtin.loaders.keras.hdf5 import PackedValues

        packed = next((tensor for tensor in changes if isinstance(tensor.values, PackedValues)), None)
        if packed is not None:
            raise RepairFailed(
                f"{shown(packed.name)} cannot be changed in place: it is stored in chunks, which mostly are compressed",
                "load the model with Keras and save it again without compression",
            )
        return patch_in_place(changes)


def _is_hdf5(source: Source) -> bool:
    beginning = source.read(0, min(USER_BLOCKS[-1] + len(SIGNATURE), source.size))
    return any(beginning.startswith(SIGNATURE, offset) for offset in USER_BLOCKS)


def _read(source: Source, config: str = "") -> Parameters:
    from checkpoint_doctor.builtin.loaders.keras.hdf5 import Missing, read_contents
    from checkpoint_doctor.builtin.loaders.keras.layouts import has_root_of_keras, is_keras, read_parameters

    try:
        contents = read_contents(source, has_root_of_keras)
    except Missing:
        if _has_words_of_keras(source):
            raise
        contents = None
    if contents is None or not is_keras(contents):
        raise _name_data(source)
    return read_parameters(contents, config)


def _has_words_of_keras(source: Source) -> bool:
    """Tell whether a file may be one of Keras, by the names of its attributes and groups, which stand in it as text."""
    beginning = source.read(0, min(LONGEST_BEGINNING, source.size))
    return any(word in beginning for word in (b"keras", b"layer_names", b"model_weights", b"vars\0"))


def _name_data(source: Source) -> NotACheckpoint:
    return NotACheckpoint(f"{source.name} is an HDF5 file of data, not a Keras model", "name the model's own file")


def _read_config(archive: ZipArchive) -> str:
    member = archive.members.get(CONFIG)
    if member is None or member.size > LONGEST_CONFIG:
        return ""
    try:
        return read_json(member.source).decode("utf-8", "replace")
    except UnreadableCheckpoint:
        return ""


def _read_versions(archive: ZipArchive) -> dict[str, str]:
    import json

    member = archive.members.get(METADATA)
    if member is None or member.size > LONGEST_METADATA:
        return {}
    try:
        fields = json.loads(read_json(member.source))
    except (UnreadableCheckpoint, ValueError, RecursionError):
        return {}
    version = fields.get("keras_version") if isinstance(fields, dict) else None
    return {"keras": version} if isinstance(version, str) else {}


loader = KerasLoader()
