"""The files of a distributed checkpoint, and the pieces in them: each is a file of ``torch.save`` inside a larger file.

Where tensors were written as safetensors, a file contains one safetensors file for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from checkpoint_doctor.builtin.loaders._pickle.tensors import Memory, PickledStorage, PickledTensor
from checkpoint_doctor.builtin.loaders._zip.member import Member
from checkpoint_doctor.builtin.loaders.distributed.metadata import Piece
from checkpoint_doctor.builtin.loaders.safetensors import header
from checkpoint_doctor.builtin.loaders.torch.archive import Archive, read_archive
from checkpoint_doctor.checkpoint import Flaw, PickledName
from checkpoint_doctor.errors import UnreadableCheckpoint
from checkpoint_doctor.sources import Section, Source
from checkpoint_doctor.text import quantity

SHORT_PIECE = 4096
"""Bytes up to which a piece is compared with those before it: flattened optimizers store equal options very often."""
MOST_FLAWS = 50
"""Flaws of pieces that are reported one by one; the others are counted."""

OpenFile = Callable[[str], Source | None]
"""Opens a file of the checkpoint's folder by its name, ``None`` where it is missing; may raise
``UnreadableCheckpoint``."""


class _File(Struct, frozen=True, eq=False):
    """One of the files with the pieces that are recorded in it, in the order of their bytes."""

    name: str
    pieces: tuple[Piece, ...]
    source: Source | None = None
    problem: str = ""
    """Why no piece of it can be read; empty where they can."""
    overlapping: frozenset[Piece] = frozenset()
    """Pieces that begin before the one before them ends."""


class Pieces:
    """Reads the pieces of a checkpoint, each once, and collects what is found on the way."""

    def __init__(self, open_file: OpenFile, pieces: Iterable[Piece]) -> None:
        by_file: dict[str, set[Piece]] = {}
        for piece in pieces:
            by_file.setdefault(piece.file, set()).add(piece)
        self._files = {name: _open(open_file, name, held) for name, held in sorted(by_file.items())}
        self._values: dict[Piece, Any] = {}
        self._equal: dict[bytes, Any] = {}
        self._tables: dict[tuple[str, int], Mapping[str, PickledTensor]] = {}
        self._names: dict[tuple[str, str, str], PickledName] = {}
        self._flaws: list[Flaw] = []
        self.unchecked: list[Member] = []
        """Members of the pieces whose CRC-32 is not checked yet."""
        self.opcodes = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files that there are."""
        return tuple(name for name, file in self._files.items() if file.source is not None)

    @property
    def pickled_names(self) -> tuple[PickledName, ...]:
        """Every global in the pickles of the pieces, once for each file."""
        return tuple(self._names.values())

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """What is wrong with the files, and with the pieces that were read."""
        found = [*self._judge_files(), *self._flaws[:MOST_FLAWS]]
        if len(self._flaws) > MOST_FLAWS:
            found.append(Flaw(f"there are {len(self._flaws) - MOST_FLAWS:,} more flaws like these"))
        return tuple(found)

    def read(self, key: str, piece: Piece) -> Any:
        """Return the tensor or object that a piece contains.

        Raises:
            UnreadableCheckpoint: it cannot be read; the message says why, without the name of the tensor.
        """
        file = self._files[piece.file]
        if file.source is None:
            raise UnreadableCheckpoint(f"{file.name} {file.problem}")
        if piece.transforms:
            how = ", ".join(piece.transforms)
            raise UnreadableCheckpoint(f"its bytes were written through {how}, which is not read")
        end = piece.offset + piece.length
        if end > file.source.size:
            raise UnreadableCheckpoint(
                f"its bytes {piece.offset:,} to {end:,} lie beyond the end of {file.name}, which has "
                f"{file.source.size:,} bytes"
            )
        table = self._read_table(file.source, piece)
        if table is not None:
            if key not in table:
                raise UnreadableCheckpoint(f"the safetensors file at byte {piece.offset:,} of {file.name} lacks it")
            return table[key]
        if piece in file.overlapping:
            raise UnreadableCheckpoint(f"its bytes from {piece.offset:,} of {file.name} on overlap those of another")
        if piece not in self._values:
            self._values[piece] = self._read_value(file.source, piece)
        return self._values[piece]

    def _read_value(self, source: Source, piece: Piece) -> Any:
        content = source.read(piece.offset, piece.length) if piece.length <= SHORT_PIECE else b""
        if content in self._equal:
            return self._equal[content]
        place = f"{piece.file}, byte {piece.offset:,}"
        archive = read_archive(Section(place, source, piece.offset, piece.length), place)
        self._note(piece, place, archive)
        if content and not isinstance(archive.root, PickledTensor):
            self._equal[content] = archive.root
        return archive.root

    def _note(self, piece: Piece, place: str, archive: Archive) -> None:
        self.opcodes += archive.opcodes
        self.unchecked += archive.unchecked
        self._flaws += (
            replace(flaw, member=f"{place}, {flaw.member}" if flaw.member else place) for flaw in archive.flaws
        )
        for name in archive.pickled_names:
            self._names.setdefault((piece.file, name.module, name.name), replace(name, member=piece.file))

    def _read_table(self, source: Source, piece: Piece) -> Mapping[str, PickledTensor] | None:
        """Return the tensors of the safetensors file that begins where a piece does, ``None`` where none does."""
        at = (piece.file, piece.offset)
        if at not in self._tables:
            rest = Section(piece.file, source, piece.offset, source.size - piece.offset)
            if not header.begins_like_header(rest):
                return None
            entries, _, start = header.read_header(rest)
            header.check_layout(rest, entries, start, self._flaws)
            self._tables[at] = {entry.name: _as_pickled(rest, entry, start) for entry in entries}
        return self._tables[at]

    def _judge_files(self) -> Iterable[Flaw]:
        for file in self._files.values():
            held = quantity(len(file.pieces), "piece")
            if file.source is None:
                yield Flaw(f"it {file.problem}; its {held} cannot be examined", file.name)
                continue
            beyond = [piece for piece in file.pieces if piece.offset + piece.length > file.source.size]
            if beyond:
                expected = max(piece.offset + piece.length for piece in beyond)
                lost = f"{len(beyond):,} of its {held} cannot be examined"
                yield Flaw(f"it is truncated; {lost}", file.name, expected, file.source.size)


def _open(open_file: OpenFile, name: str, held: set[Piece]) -> _File:
    pieces = tuple(sorted(held, key=lambda piece: (piece.offset, piece.length)))
    try:
        source = open_file(name)
    except UnreadableCheckpoint as error:
        return _File(name, pieces, problem=f"cannot be opened ({error.message})")
    if source is None:
        return _File(name, pieces, problem="is missing")
    overlapping, reached = set(), 0
    for piece in pieces:
        if piece.offset < reached:
            overlapping.add(piece)
        reached = max(reached, piece.offset + piece.length)
    return _File(name, pieces, source, overlapping=frozenset(overlapping))


def _as_pickled(source: Source, entry: header.Entry, start: int) -> PickledTensor:
    if entry.dtype is None:
        return PickledTensor(shape=entry.shape, problem=f"elements of type {entry.code} are not read")
    size = entry.end - entry.begin
    place = Section(f"{source.name}, tensor {entry.name}", source, start + entry.begin, size)
    memory = Memory(f"{source.name}:{entry.name}", size, lambda: place)
    return PickledTensor(PickledStorage(memory, entry.dtype, 0, size), entry.dtype, entry.shape, problem="")
