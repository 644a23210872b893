"""Artifacts in S3, so that one machine compiles and all others fetch: the compiled graphs, and the weights of every core.

Each artifact is a folder whose name is the fingerprint of its inputs. Each upload puts its files into a folder of its own below
that one. Machines that compile the same at once do not mix their files. The manifest of the artifact names the folder of the
upload. It is written last, and only if there is none yet. An artifact without a manifest does not exist. Credentials, region
and endpoint are those of boto3: an instance role, ~/.aws or AWS_… variables.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.compilation.artifacts import MANIFEST
from mllama_demo.errors import ConfigError

Report = Callable[[int, int], None]  # takes how many bytes are transferred, and how many there are
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_UPLOAD = "upload"  # the key of a shared manifest that names the folder of the files
_FILES_AT_ONCE = 8  # each in several parts at once; a file of weights has gigabytes


class SharedArtifacts:
    """The artifacts below one S3 URL. Methods raise ConfigError with one sentence when S3 cannot be used."""

    def __init__(self, url: str) -> None:
        """url: s3://BUCKET or s3://BUCKET/FOLDER."""
        self.url = url.rstrip("/")
        match = _URL.fullmatch(self.url)
        if match is None:
            raise ConfigError(f"{url} is no address of a folder in S3; write it like s3://BUCKET/FOLDER.")
        self._bucket, self._folder = match[1], f"{match[2]}/" if match[2] else ""

    def has(self, fingerprint: str) -> bool:
        """Whether there is an artifact of this fingerprint."""
        with self._errors():
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._key(fingerprint, MANIFEST))
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _MISSING:
                    raise
                try:  # S3 answers in the same way where there is no such bucket
                    self._client.head_bucket(Bucket=self._bucket)
                except self._client.exceptions.ClientError as bucket_error:
                    if bucket_error.response["Error"]["Code"] in _MISSING:
                        raise ConfigError(f"{self.url} cannot be used: there is no bucket {self._bucket}.") from None
                    raise
                return False
        return True

    def address(self, fingerprint: str) -> str:
        """The address of the manifest of an artifact. Without it, there is no artifact."""
        return f"{self.url}/{fingerprint}/{MANIFEST}"

    def fetch(self, fingerprint: str, folder: Path, report: Report) -> None:
        """Downloads an artifact into an empty folder. The caller checks it, as an artifact that was compiled here."""
        with self._errors():
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(fingerprint, MANIFEST))["Body"].read()
            sizes, upload = _sizes(body, self.url), _upload_of(body, self.url)
            for name in sizes:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._transfer(
                sizes,
                report,
                lambda name, count: self._client.download_file(
                    self._bucket, self._key(fingerprint, f"{upload}/{name}"), str(folder / name), Callback=count
                ),
            )
            content = {key: value for key, value in json.loads(body).items() if key != _UPLOAD}
            (folder / MANIFEST).write_bytes(_as_bytes(content))

    def store(self, fingerprint: str, folder: Path, report: Report) -> bool:
        """Uploads an artifact. Returns False when another machine was first, whose artifact stays."""
        body = (folder / MANIFEST).read_bytes()
        sizes, upload = _sizes(body, str(folder)), uuid.uuid4().hex
        stored = False
        with self._errors():
            try:
                self._transfer(
                    sizes,
                    report,
                    lambda name, count: self._client.upload_file(
                        str(folder / name), self._bucket, self._key(fingerprint, f"{upload}/{name}"), Callback=count
                    ),
                )
                manifest = _as_bytes({**json.loads(body), _UPLOAD: upload})
                stored = self._put(self._key(fingerprint, MANIFEST), manifest, {"IfNoneMatch": "*"}) is not None
            finally:
                if not stored:
                    self._remove([self._key(fingerprint, f"{upload}/{name}") for name in sizes])
        return stored

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object of this folder and its ETag, which another content has not; None where there is no such object."""
        with self._errors():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._folder + name)
                return answer["Body"].read(), answer["ETag"]
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _MISSING:
                    raise
                return None

    def write(self, name: str, body: bytes, replaces: str | None = None) -> str | None:
        """Writes an object of this folder, unless another machine was first. Returns its ETag, or None.

        Args:
            replaces: the ETag of the object that this one replaces; None when there is none yet.
        """
        with self._errors():
            return self._put(self._folder + name, body, {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces})

    def _put(self, key: str, body: bytes, condition: Mapping[str, str]) -> str | None:
        """Writes an object under a condition, and returns its ETag. Returns None where the condition does not hold."""
        invalid = importlib.import_module("botocore.exceptions").ParamValidationError
        try:
            return self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **condition)["ETag"]
        except invalid:  # a boto3 from before conditional writes
            pass
        except self._client.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _CONDITION_FAILED or ("IfMatch" in condition and code in _MISSING):
                return None
            if code not in _NO_CONDITIONS:
                raise
        return self._client.put_object(Bucket=self._bucket, Key=key, Body=body)["ETag"]

    def _remove(self, keys: Sequence[str]) -> None:
        """Removes the files of an upload that no manifest names. Without the right to delete, they stay."""
        known = importlib.import_module("botocore.exceptions")
        with suppress(self._client.exceptions.ClientError, known.BotoCoreError):
            for key in keys:
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def _transfer(self, sizes: Mapping[str, int], report: Report, one: Callable[[str, Callable[[int], None]], None]) -> None:
        """Transfers all files, the largest first. After an error, no further file is begun."""
        total, done, lock = sum(sizes.values()), 0, threading.Lock()

        def count(more: int) -> None:
            nonlocal done
            with lock:
                done += more
                report(done, total)

        pool = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="artifact")
        try:
            for transfer in [pool.submit(one, name, count) for name in sorted(sizes, key=sizes.__getitem__, reverse=True)]:
                transfer.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _key(self, fingerprint: str, name: str) -> str:
        return f"{self._folder}{fingerprint}/{name}"

    @cached_property
    def _client(self) -> Any:
        try:
            boto3 = importlib.import_module("boto3")
        except ImportError:
            raise ConfigError(f"{self.url} needs the package boto3, which is not installed; pip install boto3.") from None
        return boto3.client("s3")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns boto3's errors into one sentence."""
        _ = self._client
        known, boto = importlib.import_module("botocore.exceptions"), importlib.import_module("boto3.exceptions")
        try:
            yield
        except known.ClientError as error:
            code, action = error.response["Error"]["Code"], error.operation_name
            hint = "; the role of the instance needs s3:GetObject, s3:PutObject and s3:ListBucket" if code in _DENIED else ""
            raise ConfigError(f"{self.url} cannot be used: S3 answered {action} with {code}{hint}.") from None
        except (known.BotoCoreError, boto.Boto3Error) as error:  # no credentials, no connection, a failed transfer
            raise ConfigError(f"{self.url} cannot be used: {' '.join(str(error).split()).rstrip('.')}.") from None


_MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")
_CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_NO_CONDITIONS = ("NotImplemented", "501")  # a store that is like S3 without conditional writes; the last manifest counts there
_DENIED = ("403", "AccessDenied", "Forbidden")


def shared_at(place: object) -> SharedArtifacts | None:
    """What a value of compiled_artifacts names, if that is a folder in S3."""
    return SharedArtifacts(place) if isinstance(place, str) and place.startswith("s3://") else None


def _as_bytes(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def _upload_of(manifest: bytes, place: str) -> str:
    """The folder of the files of a shared artifact. Raises ConfigError where it is no name of an upload."""
    upload = json.loads(manifest).get(_UPLOAD)
    if not isinstance(upload, str) or not re.fullmatch(r"[0-9a-f]{32}", upload):
        raise ConfigError(f"{place} has a {MANIFEST} that does not name the folder of its files; remove that artifact.")
    return upload


def _sizes(manifest: bytes, place: str) -> dict[str, int]:
    """The bytes of each file of an artifact. Raises ConfigError for names that leave the folder, and for no manifest."""
    try:
        sizes = {name: int(record["bytes"]) for name, record in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{place} has a {MANIFEST} that cannot be read; remove that artifact.") from None
    for name in sizes:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"{place} has a {MANIFEST} that names {name}, which is outside of the artifact; remove that artifact."
            )
    return sizes
