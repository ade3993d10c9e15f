"""Stores of remote files: obstore for S3, GCS, Azure and HTTP, and fsspec for every other scheme that is installed.

Credentials come from where these libraries look for them (environment, instance metadata) and are never printed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from checkpoint_doctor.errors import UnreadableCheckpoint, UsageError
from checkpoint_doctor.sources.address import conceal_secrets, split_address

INSTALL = "pip install 'checkpoint-doctor[remote]'"

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https"})
"""The schemes that obstore reads."""

CONNECTION_TIMEOUT, SILENCE_TIMEOUT, REQUEST_TIMEOUT = timedelta(seconds=10), timedelta(seconds=30), timedelta(days=1)
"""How long a server may take to answer, how long it may send nothing, and how long a request may take in all: a stream
of a large file takes as long as its tensors take to be measured."""
RETRIES, RETRIED_FOR = 6, timedelta(seconds=60)
"""How often a request is sent again, with growing pauses, and for how long in all."""


PIECE, READ_AT_ONCE = 1 << 20, 8 << 20
"""Bytes of a piece of an answer, and of a request where the library does not stream."""
ATTEMPTS = 4
"""How often an answer may break off. obstore sends requests again by itself that are not answered."""
PAUSE = 0.2
"""Seconds before the second attempt; they double with each."""

Answer = TypeVar("Answer")


class Entry(Struct, frozen=True):
    """A file in a store."""

    path: str
    size: int
    version: str
    """What changes with the content (the ETag); empty where the store tells nothing of the kind."""


class Listing(Struct, frozen=True):
    """What is directly in a folder of a store."""

    files: tuple[Entry, ...]
    folders: tuple[str, ...]
    """The names of its folders."""


class Store(Protocol):
    """A bucket, container or server."""

    def find(self, path: str) -> Entry | None:
        """Return the file at a path, ``None`` where there is none. Raises what the library raises."""

    def read(self, entry: Entry, start: int, length: int) -> Any:
        """Return the bytes of a file from an offset on, as a buffer. Raises what the library raises."""

    def stream(self, entry: Entry, start: int) -> Iterator[Any]:
        """Yield the bytes of a file from an offset to its end, piece by piece. Raises what the library raises."""

    def list(self, folder: str) -> Listing:
        """List a folder; it is empty where there is none. Raises what the library raises."""


@lru_cache(maxsize=32)
def open_store(scheme: str, place: str) -> Store:
    """Return the store of a scheme and a bucket or host.

    Raises:
        UsageError: the library that reads the scheme is not installed, or knows no such place.
    """
    return _ObjectStore(scheme, place) if scheme in OBJECT_STORES else _FileSystem(scheme, place)


def open_store_of(uri: str) -> tuple[Store, str]:
    """Return the store of an address and the path in it. Raises as ``open_store``."""
    scheme, place, path = split_address(uri)
    return open_store(scheme, place), path.rstrip("/")


class _ObjectStore:
    def __init__(self, scheme: str, place: str) -> None:
        try:
            import obstore
            from obstore import store
        except ImportError:
            raise UsageError(f"{scheme}:// is read with the library obstore, which is not installed", INSTALL) from None
        self._obstore: Any = obstore
        is_plain = scheme == "http" or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        options: dict[str, Any] = {
            "timeout": REQUEST_TIMEOUT,
            "read_timeout": SILENCE_TIMEOUT,
            "connect_timeout": CONNECTION_TIMEOUT,
        }
        try:
            open_url: Any = store.from_url
            self._store: Any = open_url(
                f"{scheme}://{place}",
                client_options={**options, "allow_http": is_plain},
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": RETRIED_FOR,
                    "backoff": {"init_backoff": timedelta(seconds=max(PAUSE, 0.001))},
                },
            )
        except Exception as error:
            raise UsageError(
                f"cannot use {conceal_secrets(f'{scheme}://{place}')}: {describe_failure(error)}",
                "check the address and the credentials",
            ) from None

    def find(self, path: str) -> Entry | None:
        if not path:
            return None
        try:
            return _entry(self._obstore.head(self._store, path))
        except FileNotFoundError:
            return None

    def read(self, entry: Entry, start: int, length: int) -> Any:
        answer = self._ask(entry, start, start + length)
        with _naming_breaks():
            return answer.bytes()

    def stream(self, entry: Entry, start: int) -> Iterator[Any]:
        answer = self._ask(entry, start, entry.size)
        with _naming_breaks():
            yield from answer.stream(min_chunk_size=PIECE)

    def _ask(self, entry: Entry, start: int, end: int) -> Any:
        wanted: dict[str, Any] = {"range": (start, end)}
        # A weak ETag (nginx of compressed files) never matches, so it can only be compared.
        if entry.version and not entry.version.startswith("W/"):
            wanted["if_match"] = entry.version
        answer = self._obstore.get(self._store, entry.path, options=wanted)
        if entry.version and (answer.meta.get("e_tag") or "") not in ("", entry.version):
            raise Replaced
        return answer

    def list(self, folder: str) -> Listing:
        found = self._obstore.list_with_delimiter(self._store, folder or None)
        within = f"{folder}/" if folder else ""
        return Listing(
            tuple(_entry(each) for each in found["objects"] if each["path"] != folder),
            tuple(each.rstrip("/").removeprefix(within) for each in found["common_prefixes"]),
        )


@contextmanager
def _naming_breaks() -> Iterator[None]:
    """Raise what goes wrong in the body of an answer as a broken connection, which another request goes on after."""
    try:
        yield
    except Exception as error:
        raise ConnectionError(f"connection closed: {error}") from None


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], int(meta["size"]), meta.get("e_tag") or "")


class _FileSystem:
    """A file system of fsspec, such as ``hf://`` of the Hugging Face Hub."""

    def __init__(self, scheme: str, place: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise UsageError(f"{scheme}:// is read with the library fsspec, which is not installed", INSTALL) from None
        try:
            self._system: Any = fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"no library that is installed reads {scheme}:// ({' '.join(str(error).split())})",
                "install the fsspec implementation of the scheme, such as huggingface_hub for hf://",
            ) from None
        self._place = place

    def find(self, path: str) -> Entry | None:
        try:
            return self._entry(self._system.info(self._locate(path)))
        except FileNotFoundError:
            return None

    def read(self, entry: Entry, start: int, length: int) -> Any:
        return self._system.cat_file(self._locate(entry.path), start=start, end=start + length)

    def stream(self, entry: Entry, start: int) -> Iterator[Any]:
        for at in range(start, entry.size, READ_AT_ONCE):
            yield self.read(entry, at, min(READ_AT_ONCE, entry.size - at))

    def list(self, folder: str) -> Listing:
        try:
            found: Iterable[Any] = self._system.ls(self._locate(folder), detail=True)
        except FileNotFoundError:
            found = ()
        files, folders = [], []
        for each in found:
            if each["type"] == "directory":
                folders.append(str(each["name"]).rstrip("/").rpartition("/")[2])
            elif (entry := self._entry(each)) is not None:
                files.append(entry)
        return Listing(tuple(files), tuple(folders))

    def _locate(self, path: str) -> str:
        return "/".join(part for part in (self._place, path) if part)

    def _entry(self, info: Any) -> Entry | None:
        if info["type"] != "file" or info.get("size") is None:
            return None
        path = str(info["name"]).lstrip("/").removeprefix(f"{self._place}/")
        return Entry(path, int(info["size"]), str(info.get("ETag") or info.get("blob_id") or info.get("etag") or ""))


class Replaced(Exception):
    """The file is another one than when it was opened."""


_CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("PreconditionError", "Replaced"), "it was replaced while it was read", "wait until it is written"),
    (
        ("PermissionDeniedError", "PermissionError"),
        "access is denied (403)",
        "check that these credentials may read it",
    ),
    (("UnauthenticatedError",), "it asks for credentials (401)", "set the credentials as its library documents it"),
    (("NotFoundError", "FileNotFoundError"), "there is no such file (404)", "check the address"),
    (
        ("NotSupportedError",),
        "the server does not answer ranges of bytes",
        "download it first, and scan the file on this machine",
    ),
)
_SYMPTOMS = (
    ("nosuchbucket", "there is no such bucket (404)"),
    ("169.254.169.254", "no credentials were found (set AWS_SKIP_SIGNATURE=true for a public bucket)"),
    ("416", "the server refuses the range of bytes (416): the file is shorter than it was"),
    ("range request not supported", "the server does not answer ranges of bytes"),
    ("301 moved", "the bucket is in another region"),
    ("dns error", "the host is not known"),
    ("connection refused", "nothing answers at this address"),
    ("timed out", "the server does not answer in time"),
    ("timeout", "the server does not answer in time"),
    ("credential", "no credentials were found"),
    ("connection reset", "the connection breaks off"),
    ("connection closed", "the connection breaks off"),
    ("error sending request", "nothing answers at this address"),
)


def describe_failure(error: BaseException) -> str:
    """Return in a few words why a store cannot be read. Its own words may hold addresses with signatures."""
    for names, words, _ in _CAUSES:
        if type(error).__name__ in names:
            return words
    text = str(error).lower().replace("retry_timeout", "")
    return next((words for symptom, words in _SYMPTOMS if symptom in text), f"its library says {type(error).__name__}")


def unreadable(name: str, error: BaseException) -> UnreadableCheckpoint:
    """Return the error for a file that a store does not give out."""
    hints = (hint for names, _, hint in _CAUSES if type(error).__name__ in names)
    hint = next(hints, "check the address and the network")
    return UnreadableCheckpoint(f"cannot read {name}: {describe_failure(error)}", hint)


def is_final(error: BaseException) -> bool:
    """Tell whether another attempt would end like this one."""
    return not isinstance(error, OSError) or isinstance(error, FileNotFoundError | PermissionError)


def pause_before(attempt: int) -> None:
    """Wait before another attempt, longer each time."""
    time.sleep(PAUSE * 2**attempt)


def ask(name: str, request: Callable[[], Answer]) -> Answer:
    """Return what a store answers, and ask again where that may help.

    Raises:
        UnreadableCheckpoint: it does not answer, or refuses.
    """
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if is_final(error) or attempt == ATTEMPTS - 1:
                raise unreadable(name, error) from None
            pause_before(attempt)
    raise AssertionError("unreachable")


def read_range(store: Store, entry: Entry, name: str, start: int, length: int) -> memoryview:
    """Return the bytes of a file from an offset on. Raises as ``ask``."""

    def read() -> memoryview:
        content = memoryview(store.read(entry, start, length)).cast("B")
        if len(content) != length:
            raise ConnectionError("connection closed before the end of the range")
        return content

    return ask(name, read)


def walk(store: Store, folder: str) -> Iterator[tuple[str, Listing]]:
    """Yield every folder from one on, and what is directly in it. Raises what the library raises."""
    pending = [folder]
    while pending:
        path = pending.pop()
        listing = store.list(path)
        yield path, listing
        pending += [f"{path}/{name}" if path else name for name in reversed(listing.folders)]
