"""A Ray cluster of this machine, for a first try, for tests and for benchmarks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.temporary import TemporaryFolder
from mllama_demo.runtime.with_parent import with_parent

# Nobody else reaches the cluster, so that it asks for no token; and it reports its use to nobody.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
_ROOT = Path(__file__).resolve().parents[1]
_START_S = 120.0


@contextmanager
def local_cluster(cpus: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Starts a cluster, and ends all of its processes. On Linux they end also when this process is killed.

    Args:
        cpus: how many CPUs it says it has; a replica takes one.

    Yields:
        Its address, and the environment of the programs that use it.

    Raises:
        ConfigError: Ray does not start.
    """
    temporary = TemporaryFolder()
    folder = temporary.path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}"]
    line += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
    log = folder / "ray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(with_parent(line), env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise ConfigError(f"Ray does not start: {last}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", environment
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        temporary.close()
