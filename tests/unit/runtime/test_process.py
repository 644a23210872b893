"""exit_process ends the process with the exit code and calls the functions registered with atexit, while a model thread runs.

And locks, also on file systems that have none.
"""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import exclusive_lock, remove_if_abandoned
from tests.support.paths import ROOT

NEEDS_LOCKS = pytest.mark.skipif(find_spec("fcntl") is None, reason="needs locks, which Windows has not")
PORTABLE = """
import importlib, importlib.util, os, pkgutil, signal, sys
# Packages that know the system they run on.
import gradio, openai, sqlalchemy.dialects.sqlite, torch, tqdm, typer, uvicorn
from transformers import MllamaForConditionalGeneration
absent = ("__main__", "engine.neuron.runner")  # the program; what needs the Neuron SDK
if importlib.util.find_spec("ray"):
    import ray.serve, ray.serve.config, ray.serve.request_router
else:
    absent += ("engine.ray.deployment", "engine.ray.replica", "engine.ray.router")
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog", "readline"):
    sys.modules[name] = None
for owner, names in {signal: ("SIGPIPE", "SIGKILL", "SIGHUP", "SIGUSR1"), os: ("killpg", "fork", "getuid", "sysconf")}.items():
    for name in names:
        delattr(owner, name)
import app, mllama_demo
for module in pkgutil.walk_packages(mllama_demo.__path__, "mllama_demo."):
    if not module.name.endswith(absent):
        importlib.import_module(module.name)
from pathlib import Path
from mllama_demo.runtime.process import exclusive_lock, remove_if_abandoned
with exclusive_lock(Path("."), "A test") as locked:
    print("locked" if locked else "no locks", remove_if_abandoned(Path(".")))
"""
PROGRAM = """
import atexit, sys, threading, time
from mllama_demo.runtime.process import MODEL_THREAD, exit_process
atexit.register(print, "tidied")
for name in sys.argv[1:]:
    threading.Thread(target=time.sleep, args=(0.5 if name == "other" else 600,), name=name, daemon=name != "other").start()
print("said", end=" ")
began = time.monotonic()
atexit.register(lambda: print("others waited for" if time.monotonic() - began > 0.4 else "at once", end=" "))
exit_process(130)
"""


@pytest.mark.slow
def test_no_module_needs_what_windows_does_not_have(tmp_path):
    """What only POSIX systems have is taken away. This is not Windows, but its first hurdle."""
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", PORTABLE], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=150, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "no locks False\n"), ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threads", "how"),
    [((), "at once"), (("other",), "others waited for"), (("model", "other"), "at once"), (("upload", "other"), "at once")],
)
def test_exit_waits_for_threads_unless_one_runs_or_uploads_a_model(threads, how):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *threads], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, f"said {how} tidied\n", "")


HANGUP = """
import signal
from mllama_demo.runtime.process import sigterm_as_interrupt
signal.signal(signal.SIGHUP, signal.{before})
try:
    with sigterm_as_interrupt():
        signal.raise_signal(signal.SIGHUP)
        print("goes on")
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGHUP) is signal.{before}
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
@pytest.mark.parametrize(("before", "said"), [("SIG_DFL", "interrupted"), ("SIG_IGN", "goes on")], ids=["terminal", "nohup"])
def test_the_end_of_the_terminal_counts_as_sigterm_unless_nohup_ignores_it(before: str, said: str) -> None:
    line = [sys.executable, "-c", HANGUP.format(before=before)]
    assert subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout == f"{said}\n"


@NEEDS_LOCKS
def test_a_lock_keeps_others_out(tmp_path):
    with exclusive_lock(tmp_path, "The test") as locked:
        assert locked
        with pytest.raises(ConfigError, match=r"^Another download is writing to .*; wait until it has ended\.$"):
            exclusive_lock(tmp_path, "Another download").__enter__()
        assert not remove_if_abandoned(tmp_path)
    assert remove_if_abandoned(tmp_path)
    assert not tmp_path.exists()


@NEEDS_LOCKS
@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK])
def test_without_locks_the_work_goes_on_but_nothing_counts_as_abandoned(tmp_path, monkeypatch, code):
    """NFS refuses to lock a folder, which can only be opened for reading, with EBADF; without its lock service, with ENOLCK."""

    def refuse(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive_lock(tmp_path, "Another download") as locked:
        assert not locked
    assert not remove_if_abandoned(tmp_path)
    assert tmp_path.exists()


@NEEDS_LOCKS
def test_another_error_of_a_lock_is_not_hidden(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="broken disk"), exclusive_lock(tmp_path, "Another download"):
        pass
