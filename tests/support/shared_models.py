"""Commands on machines that share compiled models in one folder of S3, and what is there then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.compilation.artifacts import MANIFEST
from mllama_demo.cli import main

URL = "s3://models/llama"
OPTIONS = {"tensor_parallel_size": 2, "seq_len": 256, "context_encoding_buckets": [64, 128], "token_generation_buckets": [256]}


def compile_on(model: Path, *options: str, url: str = URL) -> int:
    flags = ["--tensor-parallel-size", "2", "--seq-len", "256", "--context-encoding-buckets", "64,128"]
    flags += ["--token-generation-buckets", "256", "--compiled-artifacts", url]
    return main(["compile", "--model-path", str(model), *flags, *options])


def made(model: Path) -> list[Path]:
    return sorted((model / "neuron-compiled-artifacts").glob("*"))


def keys(s3: Any, folder: str = "") -> list[str]:
    """What is in the bucket: of compiled models, or in another folder."""
    found = [entry["Key"] for entry in s3.list_objects_v2(Bucket="models", Prefix=folder).get("Contents", [])]
    return found if folder else [key for key in found if not key.startswith("llama/checkpoints/")]


def upload_of(s3: Any, fingerprint: str) -> str:
    """The folder of the files of an artifact."""
    return json.loads(s3.get_object(Bucket="models", Key=f"llama/{fingerprint}/{MANIFEST}")["Body"].read())["upload"]
