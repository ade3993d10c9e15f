"""Where the corpus lies, and how it is fetched: from a server on this machine, never from the network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import tests.corpus
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.sources import FileSource
from tests.corpus import VARIABLE, CorpusFile, cache_folder, find_corpus, read_manifest
from tests.fetch_corpus import fetch_all, main

CONTENTS = {"runs/a.pt": b"first", "runs/b c.zip": b"second", "empty@0123456.th": b""}


def corpus_file(name: str, content: bytes) -> CorpusFile:
    digest = hashlib.sha256(content).hexdigest()
    return CorpusFile(f"owner__name/{name}", "owner/name", "c0ffee", name, "MIT", "torch", len(content), digest)


FILES = [corpus_file(name, content) for name, content in CONTENTS.items()]


class Server:
    """Serves a folder as raw.githubusercontent.com serves repositories, and counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: Counter[str] = Counter()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests[self.path] += 1
                super().do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def publish(self, name: str, content: bytes) -> None:
        path = self.folder / "owner" / "name" / "c0ffee" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "published")
    for name, content in CONTENTS.items():
        server.publish(name, content)
    thread = Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def fetched(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    assert fetch_all(FILES, folder, server.url) is None
    assert fetched(folder) == {f"owner__name/{name}": content for name, content in CONTENTS.items()}
    assert fetch_all(FILES, folder, server.url) is None
    assert list(server.requests.values()) == [1, 1, 1]


def test_what_is_missing_or_damaged_is_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch_all(FILES, tmp_path / "corpus", server.url)
    (tmp_path / "corpus" / FILES[0].name).write_bytes(b"FIRST")
    (tmp_path / "corpus" / FILES[2].name).unlink()
    assert fetch_all(FILES, tmp_path / "corpus", server.url) is None
    assert list(server.requests.values()) == [2, 1, 2]
    assert all(file.is_in(tmp_path / "corpus") for file in FILES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"FIRST", "another sha256 than the manifest's"),
        (b"fir", "fewer than 5 bytes"),
        (b"first and more", "more than 5 bytes"),
    ],
)
def test_other_bytes_are_not_kept_and_the_other_files_are(
    content: bytes, reason: str, server: Server, tmp_path: Path
) -> None:
    server.publish("runs/a.pt", content)
    failure = fetch_all(FILES, tmp_path / "corpus", server.url)
    assert failure == f"1 of 3 files could not be fetched: owner/name/runs/a.pt ({reason})"
    assert fetched(tmp_path / "corpus").keys() == {file.name for file in FILES[1:]}


def test_a_file_that_is_not_published_any_more_is_named(server: Server, tmp_path: Path) -> None:
    (server.folder / "owner" / "name" / "c0ffee" / "runs" / "b c.zip").unlink()
    failure = fetch_all(FILES, tmp_path / "corpus", server.url)
    assert failure == "1 of 3 files could not be fetched: owner/name/runs/b c.zip (HTTP 404)"
    assert fetched(tmp_path / "corpus").keys() == {FILES[0].name, FILES[2].name}


def test_without_a_network_one_sentence_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    assert main(["--folder", str(tmp_path), "--base-url", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"no connection to {url} (")
    assert printed.err.endswith(f"): 0 of {len(read_manifest())} files are in {tmp_path}\n")
    assert printed.err.count("\n") == 1


def test_the_command_says_where_the_corpus_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.fetch_corpus.read_manifest", lambda: FILES)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "chosen"))
    assert main(["--base-url", server.url]) == 0
    assert capsys.readouterr().out == f"all 3 files of the corpus are in {tmp_path / 'chosen'}\n"


def test_the_manifest_says_where_each_file_comes_from() -> None:
    files = read_manifest()
    assert len({file.name for file in files}) == len(files) == 65
    for file in files:
        assert len(file.commit) == 40, "an abbreviated commit may become ambiguous"
        assert len(file.sha256) == 64
        assert file.repository.count("/") == 1
        assert file.licence in {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"}
        assert ".." not in Path(file.name).parts
        assert not Path(file.name).is_absolute()


def test_the_corpus_is_what_the_manifest_lists(corpus: Path) -> None:
    loaders = discover().loaders
    for file in read_manifest():
        assert file.is_in(corpus), file.name
        recognizing = next(loader for loader in loaders if loader.recognizes(FileSource(corpus / file.name)))
        assert recognizing.name == file.format, file.name


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], Path]:
    """Make folders that hold a corpus of three files, and let nothing of this machine decide."""

    def fill(folder: Path) -> Path:
        for name, content in CONTENTS.items():
            (folder / "owner__name" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "owner__name" / name).write_bytes(content)
        return folder

    monkeypatch.setattr(tests.corpus, "read_manifest", lambda: FILES)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fill


def test_the_named_folder_comes_first_then_the_one_beside_the_project_then_the_cache(
    fill: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "shared" / "corpus"
    assert find_corpus(beside) is None
    cache = fill(cache_folder())
    assert cache.is_relative_to(tmp_path / "cache")
    assert find_corpus(beside) == cache
    beside.mkdir(parents=True)
    assert find_corpus(beside) == beside
    monkeypatch.setenv(VARIABLE, str(fill(tmp_path / "named")))
    assert find_corpus(beside) == tmp_path / "named"


def test_an_unfinished_cache_is_not_the_corpus(fill: Callable[[Path], Path], tmp_path: Path) -> None:
    cache = fill(cache_folder())
    (cache / FILES[1].name).unlink()
    assert find_corpus(tmp_path / "nowhere") is None


@pytest.mark.parametrize("there", [True, False])
def test_a_named_folder_without_the_corpus_is_an_error(
    there: bool, fill: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, named = fill(tmp_path / "beside"), tmp_path / "named"
    if there:
        shutil.copytree(beside, named)
        (named / FILES[0].name).write_bytes(b"FIRST")
    monkeypatch.setenv(VARIABLE, str(named))
    with pytest.raises(FileNotFoundError, match="1 files are missing or differ" if there else "no such folder"):
        find_corpus(beside)


def test_a_clone_without_the_corpus_skips_its_tests_and_says_how_to_get_it(tmp_path: Path) -> None:
    clone = tmp_path / "clone" / "tests"
    clone.mkdir(parents=True)
    for name in ("conftest.py", "corpus.py", "corpus.tsv"):
        shutil.copy(Path(__file__).with_name(name), clone)
    (clone / "test_published.py").write_text("def test_published(corpus):\n    raise AssertionError\n")
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    unset = {key: value for key, value in os.environ.items() if key != VARIABLE and not key.startswith("PYTEST")}
    for variables, says in (
        ({"XDG_CACHE_HOME": str(tmp_path)}, "SKIPPED * `make corpus` fetches it, or CKDOC_CORPUS says where it is\n"),
        ({VARIABLE: str(tmp_path / "nowhere")}, "ERROR * there is no such folder: `make corpus` fetches it\n"),
    ):
        done = subprocess.run(command, cwd=clone.parent, env=unset | variables, capture_output=True, text=True)
        assert fnmatch(done.stdout, f"*{says}*"), done.stdout
