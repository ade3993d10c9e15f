"""What a scan of a remote file costs beside downloading it: time, memory, bytes and requests.

Run as ``python -m benchmarks.remote [--server nginx|moto] [--gigabytes 4] [--pairs 3]``. It writes a file of float32
weights, serves it on this machine, and then downloads it to /dev/null with obstore, the library that a scan reads with,
and scans it, in turn, so that both meet the same load. nginx counts the bytes that it sends. moto (``--moto`` names its
``moto_server``) copies the whole object for every request, so that each shows in the time.

This process stays small and imports nothing heavy: a child's peak memory counts from the memory of its parent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.speed import Cost, measure

NAME = "model.safetensors"
ROWS, COLUMNS = 4096, 4096
"""A matrix of 64 MiB."""

DOWNLOAD = """
import sys, obstore
from obstore import store
place, _, path = sys.argv[1].rpartition(sys.argv[2])
source = store.from_url(place or sys.argv[1], client_options={"allow_http": True, "timeout": "1h"})
with open("/dev/null", "wb") as sink:
    for piece in obstore.get(source, sys.argv[2]).stream(min_chunk_size=1 << 20):
        sink.write(piece)
"""

UPLOAD = """
import obstore
from obstore import store
bucket = store.from_url("s3://bucket", client_options={{"allow_http": True, "timeout": "1h"}})
with open({path!r}, "rb") as file:
    obstore.put(bucket, {name!r}, file, chunk_size=64 << 20, max_concurrency=1)
"""

NGINX = """
{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  log_format bytes '$request_method $bytes_sent'; access_log {folder}/sent bytes; sendfile on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""


def write_model(path: str, gigabytes: float) -> None:
    """Write a safetensors file of ordinary weights, a matrix at a time."""
    import numpy as np

    size = ROWS * COLUMNS * 4
    names = [f"layers.{number}.weight" for number in range(max(1, round(gigabytes * 1e9 / size)))]
    entries = {
        name: {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [at * size, (at + 1) * size]}
        for at, name in enumerate(names)
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    generator = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in names:
            file.write((0.02 * generator.standard_normal((ROWS, COLUMNS), np.float32)).tobytes())


@contextmanager
def serve_nginx(folder: Path) -> Iterator[str]:
    """Serve a folder's ``files`` over HTTP, and yield the address."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise SystemExit("nginx is not installed: apt install nginx-light")
    port = _find_port()
    # A folder for tests is closed to the user that nginx changes to where it may.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, user=user))
    with _running([program, "-c", str(folder / "nginx.conf")], port):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def serve_moto(folder: Path, program: str) -> Iterator[str]:
    """Serve a folder's ``files`` as a bucket of S3, and yield the address."""
    if shutil.which(program) is None:
        raise SystemExit("moto_server is not installed: pip install 'moto[server,s3]'")
    port = _find_port()
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    os.environ.update(names, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    with _running([program, "-p", str(port)], port):
        subprocess.run(["curl", "-sf", "-X", "PUT", f"http://127.0.0.1:{port}/bucket"], check=True, capture_output=True)
        _run_apart(UPLOAD.format(path=str(folder / "files" / NAME), name=NAME))
        yield "s3://bucket/"


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(30)


def _run_apart(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(address: str, pairs: int) -> None:
    """Download and scan in turn, and print each pair and the medians."""
    download = [sys.executable, "-c", DOWNLOAD, f"{address}{NAME}", NAME]
    scan = [sys.executable, "-m", "checkpoint_doctor", "scan", "--format", "json", f"{address}{NAME}"]
    measure(download)  # warms the page cache
    print(f"{'':<10} {'wall s':>8} {'cpu s':>8} {'MiB':>6} {'ratio':>6}")
    ratios, peaks = [], []
    for _ in range(pairs):
        base = _succeed(download)
        cost = _succeed(scan)
        ratios.append(cost.wall / base.wall)
        peaks.append(cost.peak)
        print(f"{'download':<10} {base.wall:>8.2f} {base.cpu:>8.2f} {base.peak:>6.0f}")
        print(f"{'scan':<10} {cost.wall:>8.2f} {cost.cpu:>8.2f} {cost.peak:>6.0f} {ratios[-1]:>5.2f}×")
    print(f"median of {pairs} pairs: {median(ratios):.2f}× the download, at most {max(peaks):.0f} MiB")


def _succeed(command: Sequence[str]) -> Cost:
    cost = measure(command)
    if cost.code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {cost.code}")
    return cost


def count_sent(log: Path, address: str, size: int) -> None:
    """Print how many bytes and requests a scan takes, of everything and of headers alone."""
    for label, options in (("scan", ()), ("scan --select FIL", ("--select", "FIL"))):
        log.write_text("")
        cost = _succeed([sys.executable, "-m", "checkpoint_doctor", "scan", *options, f"{address}{NAME}"])
        time.sleep(0.5)
        lines = [line.split() for line in log.read_text().splitlines()]
        sent = sum(int(count) for _, count in lines)
        print(f"{label}: {sent:,} bytes ({sent / size:.4%}) in {len(lines)} requests, {cost.wall:.2f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file, serve it, and measure."""
    parser = argparse.ArgumentParser(description="what a scan of a remote file costs beside downloading it")
    parser.add_argument("--server", choices=("nginx", "moto"), default="nginx")
    parser.add_argument("--moto", default="moto_server", help="the program moto_server")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", help="where the file is written; a temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "files").mkdir()
        path = folder / "files" / NAME
        _run_apart(f"from benchmarks.remote import write_model\nwrite_model({str(path)!r}, {options.gigabytes})")
        size = path.stat().st_size
        print(f"{size:,} bytes at {options.server}")
        serve = serve_nginx(folder) if options.server == "nginx" else serve_moto(folder, options.moto)
        with serve as address:
            compare(address, options.pairs)
            if options.server == "nginx":
                count_sent(folder / "sent", address, size)


if __name__ == "__main__":
    main()
