"""A Hugging Face hub on loopback: the part of its API that huggingface_hub and the command `download` call.

Written down from the requests of huggingface_hub 0.33 and 2.4. Weights are answered by a redirect to a second server, as the hub
sends them from another host.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.waiting import PATIENCE_S

NAME = "meta-llama/Tiny-Vision"
WEIGHTS = "model.safetensors"
NEEDED = {
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "chat_template.jinja", WEIGHTS),
}
OTHER_COMMIT = "f" * 40
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_aSecretThatNobodyMustRead"


@dataclass
class SeenRequest:
    """A request. server: "hub" or "cdn"."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """The state of the hub, which a test may change at any time.

    Attributes:
        files: content by name.
        revisions: commits by branch or tag.
        gated: only the token TOKEN may read files.
        approved: whether the account of TOKEN has access to a gated repository.
        private: whether nobody without TOKEN learns that the repository exists.
        break_after: the weights break off after so many bytes of each answer; None sends all.
        pause_after: the weights pause after so many bytes until `resume` is set; None never pauses.
        resets: how many more answers break off; None for all.
        damage: whether the content of the weights differs from its digest.
        ignore_range: whether the server of the weights answers 200 to a request with Range.
        status: the answer to every request, to play a hub that is out of order.
        seen: all requests.
    """

    name: str
    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: bool = False
    approved: bool = True
    private: bool = False
    break_after: int | None = None
    resets: int | None = None
    pause_after: int | None = None
    damage: bool = False
    ignore_range: bool = False
    status: int | None = None
    seen: list[SeenRequest] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    cdn_url: str = ""

    def fetched(self, server: str | None = None) -> list[str]:
        """The names of the files whose content was asked for."""
        found = [s.path for s in self.seen if s.method == "GET" and "/api/" not in s.path and server in (None, s.server)]
        return [path.rpartition("/")[2] for path in found]

    def ranges(self, name: str) -> list[str | None]:
        """The Range of each request for the content of a file that came to the server that sends it."""
        server = "cdn" if name.endswith(".safetensors") else "hub"
        return [s.headers.get("range") for s in self.seen if s.method == "GET" and s.server == server and s.path.endswith(name)]


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _git_digest(content)}
    if name.endswith((".safetensors", ".pth")):
        entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    name: str

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        hub.seen.append(SeenRequest(self.name, self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        with suppress(OSError):
            if self.name == "cdn":
                self._content(path.rpartition("/")[2])
            elif hub.status is not None:
                self._send(hub.status)
            elif match := re.fullmatch(rf"/api/models/{hub.name}(?:/revision/(.+))?", path):
                self._info(match[1] or "main", "blobs" in parse_qs(url.query))
            elif match := re.fullmatch(rf"/{hub.name}/resolve/([^/]+)/(.+)", path):
                self._resolve(match[1], match[2])
            else:
                self._missing_repository()

    def _authorised(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _missing_repository(self) -> None:
        """As the hub answers for a repository that the caller may not know of."""
        if self.headers.get("authorization") and not self._authorised():
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif self._authorised():
            self._refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")

    def _info(self, revision: str, blobs: bool) -> None:
        hub = self.hub
        commit = self._commit(revision)
        if self.headers.get("authorization") and not self._authorised():
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif hub.private and not self._authorised():
            self._missing_repository()
        elif commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            siblings = [_sibling(name, content) for name, content in hub.files.items()]
            if not blobs:
                siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
            content = {"id": hub.name, "modelId": hub.name, "sha": commit, "private": hub.private, "siblings": siblings}
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _commit(self, revision: str) -> str | None:
        return revision if revision in self.hub.revisions.values() else self.hub.revisions.get(revision)

    def _resolve(self, revision: str, name: str) -> None:
        hub, commit = self.hub, self._commit(revision)
        content = hub.files.get(name)
        if hub.gated and not self._authorised():
            self._refuse(401, "GatedRepo", f"Access to model {hub.name} is restricted.")
        elif hub.gated and not hub.approved:
            self._refuse(403, "GatedRepo", f"Access to model {hub.name} is restricted and you are not in the authorized list.")
        elif commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        elif "lfs" in (sibling := _sibling(name, content)):
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{sibling["lfs"]["sha256"]}"',
                "Location": f"{hub.cdn_url}/{name}",
            }
            self._send(302, b"", headers)
        else:
            self._send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{_git_digest(content)}"'})

    def _content(self, name: str) -> None:
        """The weights, from the second server."""
        hub = self.hub
        content = hub.files[name]
        if hub.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))) and not hub.ignore_range:
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[start:]
        if hub.break_after is not None and hub.resets != 0:
            if hub.resets is not None:
                hub.resets -= 1
            self.wfile.write(body[: hub.break_after])
            return
        if hub.pause_after is not None:
            self.wfile.write(body[: hub.pause_after])
            hub.paused.set()
            hub.resume.wait(PATIENCE_S)
            body = body[hub.pause_after :]
        self.wfile.write(body)

    def _refuse(self, status: int, code: str | None, message: str, more: dict[str, str] | None = None) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(more or {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub_server(name: str, folder: Path) -> Iterator[Hub]:
    """A hub with one repository: the files of a folder, a picture, and Meta's original files in original/."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files |= {
        "original/consolidated.00.pth": b"PK" * 50,
        "original/params.json": b"{}",
        "picture.png": b"\x89PNG",
        "old.pth": b"PK",
    }
    hub = Hub(name, files)
    servers = []
    for server_name in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": server_name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.resume.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def cached(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--meta-llama--Tiny-Vision"


def snapshot(tmp_path: Path, commit: str = COMMIT) -> Path:
    return cached(tmp_path) / "snapshots" / commit
