"""Connects this process to a Ray cluster, once."""

from __future__ import annotations

import logging
import os
import socket

from mllama_demo.errors import ConfigError

NAMESPACE = "serve"  # of Ray Serve's own actors
_CONNECT_S = 5.0
_RECONNECT_S = 30 * 24 * 3600


def connect(address: str | None) -> str:
    """Connects to the cluster.

    Args:
        address: host:port of its head; None takes RAY_ADDRESS, or the cluster of this machine.

    Returns:
        The address in words.

    Raises:
        ConfigError: nobody answers there.
    """
    where = address or "this machine"
    if address is not None:
        check_head(address)
    # Ray reads this when it is imported. Its handler of failures takes SIGTERM for one, writes a stack, and aborts the process
    # three seconds later, in the middle of its answers.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    import ray
    import ray.serve  # it sets the level of its log when it is imported

    # Ray ends a process whose cluster was silent for a minute. A web process has more to do: pages, conversations, /health.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_RECONNECT_S))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        ray.init(
            address or "auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
        )
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and more
        raise ConfigError(f"No Ray cluster answers at {where}: {first_line(error)} Start one with: ray start --head.") from None
    return where


def reports_name(application: str) -> str:
    """The name of the actor that has the reports of an application's replicas."""
    return f"{application}-reports"


def first_line(error: BaseException) -> str:
    """The first line of an error of Ray, whose texts have many; the name of its class where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_head(address: str) -> None:
    """Raises ConfigError if nobody answers at host:port. Ray itself would try for more than a minute."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise ConfigError(f"ray_address must be host:port of the cluster's head, such as 10.0.0.5:6379, got {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"No Ray cluster answers at {address}: {cause}. Start one with: ray start --head, or correct ray_address."
        ) from None
