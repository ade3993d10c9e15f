"""Scans of files on real servers of this machine: nginx, and a server that speaks S3. Skipped where they are absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("obstore")

from benchmarks.remote import NAME, serve_moto, serve_nginx
from checkpoint_doctor import scan, to_json
from checkpoint_doctor.sources.remote import stores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose ``files`` are served."""
    (tmp_path / "files").mkdir()
    weights = {f"{at}.weight": np.random.default_rng(at).standard_normal((512, 512), np.float32) for at in range(4)}
    weights["2.weight"][7] = np.nan
    save_file(weights, tmp_path / "files" / NAME)
    return tmp_path


@pytest.fixture(params=["nginx", "moto"])
def address(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the served folder."""
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # and back when the test ends
    stores.open_store.cache_clear()
    if request.param == "nginx":
        if not (shutil.which("nginx") or shutil.which("/usr/sbin/nginx")):
            pytest.skip("nginx is not installed: apt install nginx-light")
        with serve_nginx(folder) as served:
            yield served
    else:
        if not shutil.which("moto_server"):
            pytest.skip("moto_server is not on the path: pip install 'moto[server,s3]'")
        with serve_moto(folder, "moto_server") as served:
            yield served


def report_on(uri: str) -> Any:
    """Return the report on the checkpoint of a URI as JSON, without its path."""
    [entry] = to_json(scan(uri))["checkpoints"]
    return {name: value for name, value in entry.items() if name not in ("path", "files", "provenance")}


def test_the_report_is_that_of_the_file_on_the_disk(address: str, folder: Path) -> None:
    expected = report_on(str(folder / "files" / NAME))
    assert expected["verdict"] == "ill"
    assert report_on(f"{address}{NAME}") == expected
    if address.startswith("s3://"):
        assert report_on(address) == expected, "a bucket is searched"
        assert report_on(f"{address}*.safetensors") == expected
