"""The files of a distributed save, told apart by their names and their first bytes."""

from __future__ import annotations

import re
from collections.abc import Collection

from checkpoint_doctor.builtin.loaders._zip.format import LOCAL_SIGNATURE
from checkpoint_doctor.sources import Folder, Source

METADATA = ".metadata"
PIECES = ".distcp"
RANK_METADATA = re.compile(r"__(\d{1,6})\.metadata")
"""What each rank writes for itself where the ranks do not communicate (``use_collectives=False``)."""
SHARD = re.compile(r"shard-(\d{5,9})-model-\d{5,9}-of-\d{5,9}\.safetensors")
"""A rank's safetensors file."""
MODULES = ("torch.distributed.checkpoint", "torch.distributed._shard.checkpoint")
"""Where the classes of the metadata are, now and in the first versions."""
MODEL = re.compile(r"pytorch_model_fsdp_\d{1,4}")
OPTIMIZER = re.compile(r"optimizer_\d{1,4}")
"""The folders in which accelerate saves model and optimizer, each as a distributed checkpoint of its own."""


def find_files(folder: Folder) -> set[str]:
    """Return the names of the files in a folder that belong to a distributed save; empty where there is none.

    Raises:
        UnreadableCheckpoint: a ``.metadata`` without pieces cannot be opened.
    """
    pieces = {name for name in folder.files if name.endswith(PIECES)}
    described = {name for name in folder.files if RANK_METADATA.fullmatch(name)}
    if METADATA in folder.files and (pieces or is_metadata(folder.open(METADATA))):
        described.add(METADATA)
    return pieces | described or set(find_shards(folder.files))


def find_shards(files: Collection[str]) -> list[str]:
    """Return the names of the files that have the form of a rank's safetensors file, in the order of the ranks."""
    return sorted(name for name in files if SHARD.fullmatch(name))


def is_metadata(source: Source) -> bool:
    """Return whether a pickle begins with the class of the metadata.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    head = source.read(0, min(200, source.size))
    return head[:1] == b"\x80" and any(f"{each}.metadata".encode() in head for each in MODULES)


def is_piece_file(source: Source) -> bool:
    """Return whether a file is one of pieces: its name says so, for its bytes begin like those of any ``torch.save``.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    return source.name.endswith(PIECES) and source.read(0, min(4, source.size)) == LOCAL_SIGNATURE


def find_saves(folder: Folder) -> list[str]:
    """Return the names of accelerate's folders in a folder that are distributed saves, the models first."""
    models = sorted(name for name in folder.folders if MODEL.fullmatch(name))
    optimizers = sorted(name for name in folder.folders if OPTIMIZER.fullmatch(name)) if models else []
    return [name for name in (*models, *optimizers) if find_files(folder.enter(name))]
