"""Fetches the corpus: the published checkpoints that ``corpus.tsv`` lists, each from its own repository.

Run as ``make corpus`` or ``python -m tests.fetch_corpus [--folder FOLDER] [--base-url URL]``; needs nothing but the
standard library. What is already there is not fetched again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from tests.corpus import CorpusFile, cache_folder, read_manifest

BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT = 30.0
"""Seconds without an answer after which the server counts as unreachable."""


class FetchError(Exception):
    """One file could not be had, and the others may still be."""


def fetch(file: CorpusFile, folder: Path, base_url: str = BASE_URL) -> None:
    """Fetch one file into the folder; it gets its name after its size and its sha256 were found to be right.

    Raises:
        FetchError: the server refuses the file, or sends other bytes than the manifest lists.
        ConnectionError: the server cannot be reached.
        OSError: the folder cannot be written to.
    """
    url = f"{base_url}/{file.repository}/{file.commit}/{quote(file.path)}"
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            content = response.read(file.size + 1)
    except HTTPError as error:
        raise FetchError(f"HTTP {error.code}") from error
    except HTTPException as error:
        raise FetchError("the transfer broke off") from error
    except OSError as error:
        raise ConnectionError(getattr(error, "reason", error)) from error
    if len(content) != file.size:
        fewer = "fewer" if len(content) < file.size else "more"
        raise FetchError(f"{fewer} than {file.size:,} bytes")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FetchError("another sha256 than the manifest's")
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several runs may write at once, and a run may end at any moment: a name never stands for half a file.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def fetch_all(files: Sequence[CorpusFile], folder: Path, base_url: str = BASE_URL) -> str | None:
    """Fetch the files that the folder lacks; return one sentence about what failed, ``None`` where nothing did."""
    refused: list[str] = []
    for file in files:
        if file.is_in(folder):
            continue
        try:
            fetch(file, folder, base_url)
        except FetchError as error:
            refused.append(f"{file.repository}/{file.path} ({error})")
        except ConnectionError as error:
            # Every other file would fail in the same way, and each after its own timeout.
            there = sum(each.is_in(folder) for each in files)
            return f"no connection to {base_url} ({error}): {there} of {len(files)} files are in {folder}"
        except OSError as error:
            return f"{folder} cannot be written to: {error}"
    if not refused:
        return None
    return f"{len(refused)} of {len(files)} files could not be fetched: {', '.join(refused)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the corpus; return 0 where all of it is there."""
    parser = argparse.ArgumentParser(description="Fetch the corpus of published checkpoints.")
    parser.add_argument("--folder", type=Path, default=cache_folder(), help="where to (default: %(default)s)")
    parser.add_argument("--base-url", default=BASE_URL, help="where from (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = read_manifest()
    failure = fetch_all(files, options.folder, options.base_url)
    if failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"all {len(files)} files of the corpus are in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
