"""A checkpoint to damage, one to compile, and an S3 that machines share compiled models in."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mllama_demo.checkpoint.compilation import compile as module
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from tests.support.compilations import CONFIG
from tests.support.neuron_fakes import be_an_instance, install_sdk


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the embedded checkpoint that a test may damage."""
    return Path(shutil.copytree(EMBEDDED_CHECKPOINT, tmp_path / "checkpoint"))


@pytest.fixture
def config(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file beside a copy of the checkpoint, on a machine with the SDK."""
    install_sdk(monkeypatch)
    be_an_instance(monkeypatch, tmp_path, None)
    monkeypatch.setattr(compile_job, "TICK_S", 0.05)
    monkeypatch.setattr(module, "GRAPH_DISK_BYTES", 2**20)
    shutil.copytree(embedded, tmp_path / "model")
    file = tmp_path / "neuron.yaml"
    file.write_text(CONFIG.format(model=tmp_path / "model", root=tmp_path / "artifacts"))
    return file


@pytest.fixture
def s3(monkeypatch) -> Iterator[Any]:
    """A client of an S3 of this machine with the bucket `models`."""
    boto3: Any = pytest.importorskip("boto3")
    moto_server: Any = pytest.importorskip("moto.server")
    for name in ("werkzeug", "botocore"):  # other tests may have set up a log, and these write of every request
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=30).raise_for_status()  # what it has outlives the server
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    server.stop()


@pytest.fixture
def instance(tmp_path, embedded, monkeypatch):
    """instance(name): a machine with the SDK and a copy of the checkpoint. Returns the checkpoint's folder."""
    install_sdk(monkeypatch)
    be_an_instance(monkeypatch, tmp_path, None)
    monkeypatch.setattr(compile_job, "TICK_S", 0.05)
    monkeypatch.setattr(module, "GRAPH_DISK_BYTES", 2**20)

    def instance(name: str) -> Path:
        return Path(shutil.copytree(embedded, tmp_path / name / "model"))

    return instance
