"""The lease of a compilation in S3: of machines that need the same model, one compiles it, and the others wait for it.

A lease is an object beside the manifest of the artifact. Its holder writes it anew every RENEW_S seconds. A machine that sees it
unchanged for EXPIRY_S seconds, by its own clock, takes it over: the holder has ended. Clocks of two machines are never compared.
Every change of the object names the content that it replaces, so that of several machines one succeeds. That is why a holder that
is done marks the lease as released instead of removing it: it might remove that of a machine that took over at this moment.
A lease saves work and decides nothing: where two machines hold one, both compile, and the first to finish shares its model.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid

from mllama_demo.checkpoint.compilation.shared_artifacts import SharedArtifacts
from mllama_demo.errors import ConfigError

log = logging.getLogger(__name__)
RENEW_S = 30.0
EXPIRY_S = 150.0  # several renewals may fail
POLL_S = 5.0  # between two looks of a machine that waits
_NAME = "compiling.json"


class Lease:
    """The lease of one fingerprint, as one machine sees it. Methods raise ConfigError when S3 cannot be used."""

    def __init__(self, shared: SharedArtifacts, fingerprint: str) -> None:
        self._shared, self._name = shared, f"{fingerprint}/{_NAME}"
        self._holder, self._renewals = uuid.uuid4().hex, 0
        self._etag: str | None = None  # of the lease while this machine holds it
        self._seen = ""  # the ETag of another machine's lease
        self._unchanged_s, self._looked = 0.0, 0.0  # for how long it was seen so, and when it was seen last
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def held_elsewhere(self) -> bool:
        """Whether another machine holds the lease and has renewed it lately. Expiry needs several calls."""
        return self._other_holder()[1]

    def acquire(self) -> bool:
        """Takes the lease and renews it until `release`. Returns False while another machine holds it."""
        etag, held = self._other_holder()
        if held:
            return False
        self._etag = self._write(replaces=etag)
        if self._etag is None:
            return False
        self._end.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Gives the lease back, if it is this machine's. A failure is logged only, because the lease expires."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._etag is not None:
            self._etag = None
            try:
                found = self._shared.read(self._name)
                if found is not None and self._is_own(found[0]):  # another machine takes over from one that stood still
                    self._put(found[1], released=True)
            except ConfigError as error:
                log.warning("the lease of the compilation stays in S3 until it expires: %s", error)

    def _other_holder(self) -> tuple[str | None, bool]:
        """The ETag of the lease in S3, None without one, and whether its holder still renews it."""
        found = self._shared.read(self._name)
        if found is None:
            return None, False
        (body, etag), now = found, time.monotonic()
        if b'"released"' in body:
            return etag, False
        # During an outage of S3 the holder cannot renew it, so that a long time between two looks counts as one renewal.
        self._unchanged_s = self._unchanged_s + min(now - self._looked, RENEW_S) if self._seen == etag else 0.0
        self._seen, self._looked = etag, now
        return etag, self._unchanged_s < EXPIRY_S

    def _write(self, replaces: str | None) -> str | None:
        """Writes the lease. Returns its ETag, or None where another machine was first."""
        etag = self._put(replaces)
        if etag is not None:
            return etag
        # boto3 repeats a write whose answer was lost, and S3 refuses the repetition.
        found = self._shared.read(self._name)
        return found[1] if found is not None and self._is_own(found[0]) else None

    def _put(self, replaces: str | None, released: bool = False) -> str | None:
        self._renewals += 1  # another content has another ETag
        content = {"holder": self._holder, "renewals": self._renewals, **({"released": True} if released else {})}
        return self._shared.write(self._name, json.dumps(content).encode(), replaces)

    def _is_own(self, content: bytes) -> bool:
        return self._holder.encode() in content

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            try:
                self._etag = self._write(replaces=self._etag)
            except ConfigError as error:
                log.warning("the lease of the compilation could not be renewed: %s", error)
                continue
            if self._etag is None:
                log.warning("another machine took over the lease of the compilation; this one goes on all the same")
                return
