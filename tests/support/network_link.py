"""A network link to a server that a test interrupts and restores, as the link of a phone in a train."""

from __future__ import annotations

import contextlib
import socket
import threading


class NetworkLink:
    """Carries TCP connections to a port of this machine. url has no slash at its end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = True
        self._flows = threading.Event()
        self._flows.set()
        self._ends: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections; new ones end at once."""
        self._open = False
        for end in list(self._ends):
            _shut(end)

    def mend(self, port: int | None = None) -> None:
        """Restores the link. port: the port that the link leads to from now on, if another one."""
        self._port = port or self._port
        self._open = True

    def hold(self) -> None:
        """Carries nothing from now on, without ending a connection: a firewall that has forgotten it does so."""
        self._flows.clear()

    def flow(self) -> None:
        """Carries what was held, and all that follows."""
        self._flows.set()

    def close(self) -> None:
        self.flow()
        self.cut()
        _shut(self._door)
        self._door.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                try:
                    if not self._open:
                        raise ConnectionError
                    far = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    near.close()
                    continue
                self._ends |= {near, far}
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
        for end in (source, target):
            _shut(end)
            self._ends.discard(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
