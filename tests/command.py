"""Runs ``ckdoc`` in a process of its own, forked from one that has imported it: a start takes a tenth of the time.

The process has its own working folder, environment, streams and limits, as one that is started anew. What differs is
what happens before the command runs: tests of the interpreter's own start (its path, its encoding, what is imported,
which plugins are found) start ``python -m checkpoint_doctor`` themselves. The commands share one process with torch,
which reads repaired copies; ``test_cross_check.py`` starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parent.parent
TIMEOUT = 120


def run_command(
    *arguments: str | Path,
    cwd: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[int, int] = MappingProxyType({}),
    packages: Sequence[Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``ckdoc`` with these arguments, and return its exit code and what it wrote.

    Args:
        arguments: the command line after ``ckdoc``.
        cwd: the working folder.
        environment: variables of the environment besides those of this process.
        limits: what the process may use, as ``resource.setrlimit`` takes it: ``{resource.RLIMIT_DATA: 600 << 20}``.
        packages: folders with further installed packages.
    """
    request = {
        "arguments": [str(each) for each in arguments],
        "cwd": str(cwd or Path.cwd()),
        "environment": {**os.environ, **(environment or {})},
        "limits": list(limits.items()),
        "packages": [str(each) for each in packages],
    }
    server = _start_server()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        message = json.dumps(request).encode()
        socket.send_fds(server, [len(message).to_bytes(8, "big")], [output.fileno(), errors.fileno()])
        server.sendall(message)
        process = _read_number(server)
        try:
            code = _read_number(server)
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            code = _read_number(server)
        for stream in (output, errors):
            stream.seek(0)
        texts = [stream.read().decode() for stream in (output, errors)]
    return subprocess.CompletedProcess(request["arguments"], code, *texts)


@cache
def _start_server() -> socket.socket:
    ours, theirs = socket.socketpair()
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [sys.executable, "-c", f"from tests.command import serve; serve({theirs.fileno()})"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    ours.settimeout(TIMEOUT)
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def serve(descriptor: int) -> None:
    """Fork a process for each request until the other side is gone."""
    import typer.main

    import checkpoint_doctor.acts.fix
    import checkpoint_doctor.cli.running  # noqa: F401
    from checkpoint_doctor.acts.scan import scan
    from checkpoint_doctor.cli.application import app
    from checkpoint_doctor.errors import UsageError
    from checkpoint_doctor.plugins.catalogue import discover
    from checkpoint_doctor.results.report import Page

    # What most commands import is imported by using it once.
    report = scan([ROOT / "fixtures" / "case_1_healthy.zip"])
    for reporter in discover().reporters.values():
        with contextlib.suppress(UsageError):  # one of them writes files alone
            reporter.render(report, discover().rules, Page(80))
    # So is the parser of the command line, which takes longer to build than most commands to run.
    typer.main.get_command = cache(typer.main.get_command)
    typer.main.get_command(app)
    with socket.socket(fileno=descriptor) as client:
        while True:
            length, streams, _, _ = socket.recv_fds(client, 8, 2)
            if not length:
                return
            request = json.loads(_read(client, int.from_bytes(length, "big")))
            if "fix" in request["arguments"]:
                _share_torch()
            process = os.fork()
            if not process:
                client.close()
                _run(request, streams)
            for stream in streams:
                os.close(stream)
            client.sendall(process.to_bytes(8, "big", signed=True))
            _, status = os.waitpid(process, 0)
            client.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))


@cache
def _share_torch() -> None:
    """Start the process with torch once for all fixes: each would wait a second for its own."""
    from checkpoint_doctor.repair import cross_check

    torch = cross_check._Torch()
    torch._version = torch._read_answer().get("version")
    torch._process.poll = lambda: None  # a forked process cannot ask for a sibling
    torch.stop = lambda: None
    cross_check._Torch = lambda: torch


def _run(request: Mapping[str, Any], streams: list[int]) -> None:
    """Run the command in this process, which ends with it."""
    code = 1
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        for kind, limit in request["limits"]:
            resource.setrlimit(kind, (limit, limit))
        sys.path[:0] = request["packages"]
        sys.argv = ["ckdoc", *request["arguments"]]
        from checkpoint_doctor.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        for each in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                each.flush()
        os._exit(code & 0xFF)


def _read(stream: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = stream.recv(length - len(content))
        if not piece:
            raise EOFError("the process that runs the command is gone")
        content += piece
    return content


def _read_number(stream: socket.socket) -> int:
    return int.from_bytes(_read(stream, 8), "big", signed=True)
