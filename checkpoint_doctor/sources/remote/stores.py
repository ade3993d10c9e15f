"""Stores of remote files: obstore for S3, GCS, Azure and HTTP, and fsspec for every other scheme that is installed.

Credentials come from where these libraries look for them (environment, instance metadata) and are never printed.
"""

from __future__ import annotations

import os
import re
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

CONNECTION_TIMEOUT, SILENCE_TIMEOUT, REQUEST_TIMEOUT = timedelta(seconds=10), timedelta(seconds=20), timedelta(days=1)
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
    version: str = ""
    """What changes with the content (the ETag); empty where the store tells nothing of the kind."""
    modified: str = ""
    """When it was changed, as far as the store tells; often to the second."""

    def is_other_than(self, found: Entry) -> bool:
        """Tell whether what is at its path now is another file, as far as the store tells."""
        if self.size != found.size:
            return True
        if self.version and found.version:
            return self.version != found.version
        return not (self.version or found.version) and self.modified != found.modified


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
            words, hint = explain_failure(error)
            raise UsageError(f"cannot use {conceal_secrets(f'{scheme}://{place}')}: {words}", hint) from None

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
        if entry.is_other_than(_entry(answer.meta)):
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
    return Entry(meta["path"], int(meta["size"]), meta.get("e_tag") or "", str(meta.get("last_modified") or ""))


VERSIONS = ("ETag", "etag", "blob_id", "md5Hash")
"""Under one of these the implementations of fsspec tell what changes with a file's content."""
TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""Under one of these they tell when it was changed."""


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
            piece = self.read(entry, at, min(READ_AT_ONCE, entry.size - at))
            if at + READ_AT_ONCE >= entry.size:
                # No answer says which version it is of, so the last piece is only good when the file is still the same.
                self._system.invalidate_cache(self._locate(entry.path))
                found = self.find(entry.path)
                if found is None or entry.is_other_than(found):
                    raise Replaced
            yield piece

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
        version, modified = (next((str(info[key]) for key in keys if info.get(key)), "") for keys in (VERSIONS, TIMES))
        return Entry(path, int(info["size"]), version, modified)


class Replaced(Exception):
    """The file is another one than when it was opened."""


CREDENTIALS = "set the credentials as its library documents it; AWS_SKIP_SIGNATURE=true reads a public bucket of S3"
NETWORK = "check the address and the network"

_CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("PreconditionError", "Replaced"), "it was replaced while it was read", "wait until it is written"),
    (
        ("PermissionDeniedError", "PermissionError"),
        "access is denied (403)",
        "check that these credentials may read it",
    ),
    (("UnauthenticatedError",), "it asks for credentials (401)", CREDENTIALS),
    (("NotFoundError", "FileNotFoundError"), "there is no such file (404)", "check the address"),
    (
        ("NotSupportedError",),
        "the server does not answer ranges of bytes",
        "download it first, and scan the file on this machine",
    ),
)
"""Names of exceptions, what they mean, and what to do."""
_SYMPTOMS = (
    ("nosuchbucket", "there is no such bucket (404)", "check the address"),
    ("169.254.169.254", "no credentials were found", CREDENTIALS),
    ("metadata.google.internal", "no credentials were found", CREDENTIALS),
    ("incorrectly configured region", "the bucket is in another region", "set AWS_REGION to the region of the bucket"),
    ("authorizationheadermalformed", "the bucket is in another region", "set AWS_REGION to the region of the bucket"),
    ("permanentredirect", "the bucket is in another region", "set AWS_REGION to the region of the bucket"),
    ("301 moved", "the bucket is in another region", "set AWS_REGION to the region of the bucket"),
    (
        "code: 400",
        "the server refuses the request (400), as it does for a bucket in another region or expired credentials",
        "set AWS_REGION to the region of the bucket, or renew the credentials",
    ),
    ("code: 429", "the server asks for fewer requests (429)", "try again later"),
    ("account must be specified", "no storage account is named", "set AZURE_STORAGE_ACCOUNT_NAME"),
    (
        "code: 416",
        "the server refuses the range of bytes (416): the file is shorter than it was",
        "wait until it is written",
    ),
    (
        "range request not supported",
        "the server does not answer ranges of bytes",
        "download it first, and scan the file on this machine",
    ),
    ("dns error", "the host is not known", NETWORK),
    ("connection refused", "nothing answers at this address", NETWORK),
    ("timed out", "the server does not answer in time", NETWORK),
    ("timeout", "the server does not answer in time", NETWORK),
    ("credential", "no credentials were found", CREDENTIALS),
    ("connection reset", "the connection breaks off", NETWORK),
    ("connection closed", "the connection breaks off", NETWORK),
    ("redirect", "the server redirects without end", NETWORK),
    ("code: 5", "the server fails (5xx)", "try again later"),
    ("unexpectedrange", "the server answers other bytes than it was asked for", NETWORK),
    ("error sending request", "nothing answers at this address", NETWORK),
)
"""Words in messages of libraries, which have one exception for many failures: what they mean, and what to do."""


def explain_failure(error: BaseException) -> tuple[str, str]:
    """Return in a few words why a store cannot be read, and what to do.

    The library's own words may hold addresses with signatures, and are not shown.
    """
    for names, words, hint in _CAUSES:
        if type(error).__name__ in names:
            return words, hint
    text = str(error).lower().replace("retry_timeout", "")
    known = ((words, hint) for symptom, words, hint in _SYMPTOMS if symptom in text)
    status = re.search(r"status code: (\d{3})", text)
    if status:
        words = f"the server answers with status {status[1]}"
    elif isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        words = "the server does not answer in time"
    elif "Connect" in type(error).__name__:
        words = "nothing answers at this address"
    else:
        words = f"its library says {type(error).__name__}"
    return next(known, (words, NETWORK))


def unreadable(name: str, error: BaseException) -> UnreadableCheckpoint:
    """Return the error for a file that a store does not give out."""
    words, hint = explain_failure(error)
    return UnreadableCheckpoint(f"cannot read {name}: {words}", hint)


def is_final(error: BaseException) -> bool:
    """Tell whether another attempt would end like this one."""
    return not isinstance(error, OSError) or isinstance(error, FileNotFoundError | PermissionError)


class Patience:
    """How long a file is asked for again that does not come."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: something came."""
        self._attempts, self._began = 0, time.monotonic()

    def ends_with(self, error: BaseException) -> bool:
        """Tell whether an error is the last one, and otherwise wait before the next attempt, longer each time."""
        self._attempts += 1
        late = time.monotonic() - self._began > RETRIED_FOR.total_seconds()
        if is_final(error) or late or self._attempts == ATTEMPTS:
            return True
        time.sleep(PAUSE * 2 ** (self._attempts - 1))
        return False


def ask(name: str, request: Callable[[], Answer]) -> Answer:
    """Return what a store answers, and ask again where that may help.

    Raises:
        UnreadableCheckpoint: it does not answer, or refuses.
    """
    patience = Patience()
    while True:
        try:
            return request()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if patience.ends_with(error):
                raise unreadable(name, error) from None


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
