"""A real PostgreSQL server of its own, which a test can restart, or pause as a machine that hangs does."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.program import free_port
from tests.support.waiting import wait_until


class Postgres:
    """One server.

    Args:
        command: Starts it.
        environment: The arguments of its process: folder, variables and user.

    Attributes:
        port: Where it listens on 127.0.0.1.
    """

    def __init__(self, command: list[str], port: int, environment: dict[str, Any]) -> None:
        self._command, self.port, self._environment = command, port, environment
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        log = Path(self._environment["cwd"]) / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, **self._environment)
        wait_until(lambda: _answers(self.port), log.read_text)

    def stop(self) -> None:
        """Ends all connections, as for a restart; what was committed stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def end(self) -> None:
        """Ends the server, also one that is paused, that never answered, or that was not started."""
        if self._process is None:
            return
        self.go_on()
        try:
            self.stop()
        finally:
            self._process.kill()

    def url(self, port: int | None = None) -> str:
        """The option database_url. port: of a link that leads to the server, if another one."""
        return f"postgresql://demo@127.0.0.1:{port or self.port}/postgres"

    def pause(self) -> None:
        """Stops every process of the server. Connections stay, and nothing answers."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, what: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):  # a connection ends with its process
                os.kill(process, what)

    def _processes(self) -> list[int]:
        """The server, which is stopped first so that it starts no more, and its processes for connections."""
        assert self._process is not None
        server = self._process.pid
        found = [server]
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == server:
                    found.append(int(folder.name))
        return found


def missing_postgres() -> str | None:
    """What this machine lacks for running_postgres, in a sentence."""
    if importlib.util.find_spec("psycopg") is None:
        return "PostgreSQL needs its driver: pip install 'psycopg[binary]'."
    if _initdb() is None or not Path("/proc/self/stat").exists():
        return "PostgreSQL is not installed, or this is not Linux: apt-get install postgresql."
    return None


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """An empty server. Skips the test where something is missing for it."""
    if missing := missing_postgres():
        pytest.skip(missing)
    initdb = cast("str", _initdb())
    # It refuses to run as root, and its user must be able to enter all folders above its own.
    as_user: dict[str, Any] = {"user": "nobody", "group": Path(initdb).stat().st_gid} if os.geteuid() == 0 else {}
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        if as_user:
            shutil.chown(folder, "nobody")
        data, port = folder / "data", free_port()
        quiet: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **as_user}
        made = [initdb, "-D", str(data), "-U", "demo", "--auth=trust", "-N", "-E", "UTF8"]
        subprocess.run(made, check=True, capture_output=True, timeout=120, **quiet)
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        command = [str(Path(initdb).with_name("postgres")), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        server = Postgres(command, port, quiet)
        stack.callback(server.end)
        server.start()
        yield server


def _initdb() -> str | None:
    """The program that makes a database, of the newest PostgreSQL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    return shutil.which("initdb", path=str(programs[0])) if programs else shutil.which("initdb")


def _answers(port: int) -> bool:
    """Whether the server takes connections: it answers the question whether it speaks TLS."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(bytes.fromhex("0000000804d2162f"))
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False
