"""A server of files on this machine that answers ranges, and can be told to misbehave."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, SO_LINGER, SOL_SOCKET
from threading import Event, Thread
from typing import Any

REFUSALS = {"denied": 403, "missing": 404, "refused-range": 416, "error-500": 500, "error-503": 503}
"""Behaviours that are one status and no body."""
BEHAVIOURS = (
    *(*REFUSALS, "reset", "reset-in-body", "cut", "short", "stall", "silent"),
    *("delay", "redirect", "no-ranges", "replaced"),
)
"""What may go wrong with a request. ``cut`` ends the body early, ``short`` answers a smaller range than was asked for,
``stall`` sends half and then nothing, ``silent`` does not answer at all, and ``replaced`` puts the file with ``.new``
after its name in place of the file."""


class RangeServer(ThreadingHTTPServer):
    """Serves one folder."""

    daemon_threads = True
    request_queue_size = 100
    behaviour: str = ""
    """One of ``BEHAVIOURS``, or ``flaky``; empty for a server that does what it should."""
    draw: Callable[[], str] | None = None
    """Draws the behaviour of each request instead."""
    is_replaced: bool = False
    """True from the first request on that was ``replaced``."""
    has_versions: bool = True
    """False for a server that sends no ETag."""
    delay: float = 0.5
    sent: int = 0
    """Bytes of all answers."""
    requests: int = 0
    sizes_asked: int = 0
    """How many of the requests were HEAD."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.closing = Event()

    @property
    def address(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where the client leaves."""


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        server.sizes_asked += self.command == "HEAD"
        behaviour = server.draw() if server.draw else server.behaviour
        if behaviour == "flaky":
            behaviour = ("reset", "cut", "")[server.requests % 3]
        server.is_replaced |= behaviour == "replaced"
        path = Path(self.translate_path(self.path))
        if server.is_replaced and (new := path.with_name(f"{path.name}.new")).is_file():
            path = new
        if behaviour in REFUSALS:
            self.send_error(REFUSALS[behaviour])
        elif not path.is_file():
            self.send_error(404)
        elif behaviour == "reset":
            self._reset()
        elif behaviour == "silent":
            self.server.closing.wait(10)
            self.close_connection = True
        elif behaviour == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            if behaviour == "delay":
                time.sleep(server.delay)
            self._answer(path, behaviour)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, path: Path, behaviour: str) -> None:
        server, size = self.server, os.path.getsize(path)
        version = f"{path.name}-{server.requests if behaviour == 'replaced' else 1}"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        if server.has_versions and self.headers.get("If-Match", f'"{version}"') != f'"{version}"':
            self.send_error(412)
            return
        if wanted and first > last:
            self.send_error(416)
            return
        if behaviour == "short":
            last = (first + last) // 2
        if wanted and behaviour != "no-ranges":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            first, last = 0, size - 1
            self.send_response(200)
        if server.has_versions:
            self.send_header("ETag", f'"{version}"')
        hour = 1 if server.is_replaced else 0
        self.send_header("Last-Modified", f"Sat, 21 Nov 2026 0{hour}:00:00 GMT")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        if behaviour in ("cut", "stall", "reset-in-body"):
            body = body[: len(body) // 2]
            self.close_connection = True
        server.sent += len(body)
        self.wfile.write(body)
        if behaviour == "stall":
            server.closing.wait(10)
        elif behaviour == "reset-in-body":
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(SHUT_RDWR)
        self.close_connection = True


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder while the context lasts."""
    with RangeServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()
