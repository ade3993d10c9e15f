"""A server of files on this machine that answers ranges, and can be told to misbehave."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Thread
from typing import Any


class RangeServer(ThreadingHTTPServer):
    """Serves one folder."""

    daemon_threads = True
    behaviour: str = ""
    """``no-ranges``, ``denied``, ``cut``, ``flaky`` or ``replaced``; empty for a server that does what it should."""
    sent: int = 0
    """Bytes of all answers."""
    requests: int = 0

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
        self.server.requests += 1
        behaviour = self.server.behaviour
        path = Path(self.translate_path(self.path))
        if behaviour == "denied":
            self.send_error(403)
            return
        if not path.is_file():
            self.send_error(404)
            return
        if behaviour == "flaky" and self.server.requests % 3 == 0:
            self.connection.shutdown(SHUT_RDWR)
            self.close_connection = True
            return
        content, size = path.read_bytes(), os.path.getsize(path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        if wanted and behaviour != "no-ranges":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            first, last = 0, size - 1
            self.send_response(200)
        version = str(self.server.requests) if behaviour == "replaced" else "1"
        self.send_header("ETag", f'"{version}"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[first : last + 1]
        if behaviour == "cut" or (behaviour == "flaky" and self.server.requests % 3 == 1):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.server.sent += len(body)
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder while the context lasts."""
    with RangeServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
