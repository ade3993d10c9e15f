"""Addresses of remote files and folders: ``s3://bucket/run/model.pt``, ``https://…``."""

from __future__ import annotations

import os
import re

from checkpoint_doctor.errors import UsageError

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?P<place>[^/]*)/?(?P<path>.*)", re.IGNORECASE | re.DOTALL)


def is_address(uri: str) -> bool:
    """Tell whether a URI is the address of something remote; a local path of that name wins."""
    return _ADDRESS.fullmatch(uri) is not None and not os.path.lexists(uri)


def split_address(uri: str) -> tuple[str, str, str]:
    """Return the scheme, the bucket or host, and the path in it, of an address."""
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri} is not an address")
    return match["scheme"].lower(), match["place"], match["path"]


def conceal_secrets(uri: str) -> str:
    """Return an address without the password and the query in it, which may sign it."""
    scheme, place, path = split_address(uri)
    _, at, host = place.rpartition("@")
    path, question, _ = path.partition("?")
    return f"{scheme}://{'…@' if at else ''}{host}/{path}{'?…' if question else ''}"


def show_uri(uri: str) -> str:
    """Return a path as it is, and an address without secrets: what reports and messages call a checkpoint."""
    return conceal_secrets(uri) if is_address(uri) else uri


def require_local(uri: str, why: str, hint: str) -> None:
    """Make sure that a URI is a path of this machine.

    Raises:
        UsageError: it is an address; the sentence ends with ``why``.
    """
    if is_address(uri):
        raise UsageError(f"{conceal_secrets(uri)} is not on this machine, {why}", hint)


def parent_of(uri: str) -> str:
    """Return the address of the folder that something is in."""
    return uri.rstrip("/").rpartition("/")[0]
