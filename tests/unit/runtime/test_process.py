"""exit_process ends the process with the exit code and calls the functions registered with atexit, while a model thread runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from mllama_demo.runtime.process import MODEL_THREAD, exit_process
atexit.register(print, "tidied")
for name in sys.argv[1:]:
    threading.Thread(target=time.sleep, args=(600 if name == "model" else 0.5,), name=name, daemon=name == "model").start()
print("said", end=" ")
began = time.monotonic()
atexit.register(lambda: print("others waited for" if time.monotonic() - began > 0.4 else "at once", end=" "))
exit_process(130)
"""


@pytest.mark.parametrize(
    ("threads", "how"), [((), "at once"), (("other",), "others waited for"), (("model", "other"), "at once")]
)
def test_exit_waits_for_threads_unless_a_model_thread_runs(threads, how):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *threads], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, f"said {how} tidied\n", "")
