"""The worker process that compiles with NxDI. A separate process can be ended at any time, together with its compilers.

Reads one job as a line of JSON from standard input, and writes events as lines of JSON to standard output. Compiler output and
tracebacks go to standard error. The process ends itself when standard input ends, because its parent has ended.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from mllama_demo.engine.neuron.config import inference_config
from mllama_demo.errors import DemoError

FULL_DISK_BYTES = 2**26  # with less free space, a failure counts as a full disk


def compile_model(model_path: Path, values: dict[str, Any], folder: Path) -> None:
    """Compiles the checkpoint with NxDI into `folder`. values: see engine.neuron.config.neuron_values."""
    from mllama_demo.engine.neuron.sdk import mllama_module

    model = mllama_module().NeuronMllamaForCausalLM(str(model_path), inference_config(model_path, values))
    model.compile(str(folder))


class _Events(logging.Handler):
    """Sends log messages and outcomes to the parent process."""

    def __init__(self, stream: Any) -> None:
        super().__init__(logging.INFO)
        self._stream = stream

    def send(self, **event: str) -> None:
        self._stream.write(json.dumps(event) + "\n")

    def emit(self, record: logging.LogRecord) -> None:
        self.send(log=record.getMessage())


def main() -> int:
    events = _Events(os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8"))
    os.dup2(2, 1)  # compilers print to standard output
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger = logging.getLogger("Neuron")
    logger.setLevel(logging.INFO)
    logger.addHandler(events)
    try:
        compile_model(Path(job["model_path"]), job["values"], Path(job["folder"]))
    except DemoError as error:
        events.send(error=str(error))
    except BaseException as error:
        traceback.print_exc()
        if _full_disk(error, Path(job["folder"])):
            events.send(full=getattr(error, "filename", None) or job["folder"])
        else:
            events.send(failed=f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
    else:
        events.send(done="")
    sys.stderr.flush()
    os._exit(0)  # does not wait for threads in which a compiler may still run


def _full_disk(error: BaseException, folder: Path) -> bool:
    """Whether the disk is full. torch, safetensors and compilers report it in different ways, so the free space counts too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < FULL_DISK_BYTES


def _end_with_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)  # the process group of this process, including itself


if __name__ == "__main__":
    sys.exit(main())
