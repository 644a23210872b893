"""The process that compiles. NxDI's compilation happens here and nowhere else, so that it can be ended at any moment together
with all compilers it started, and so that the demo beside it stays as it was.

Takes one job as a line of JSON on standard input and gives events as lines of JSON on standard output; what is printed or
crashes goes to standard error. Ends at once when the standard input ends: whoever asked is gone.
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

NO_ROOM = 2**26  # bytes; with less than this free, whatever failed did so for that


def compile_model(model_path: Path, values: dict[str, Any], folder: Path) -> None:
    """NxDI's files of the checkpoint, compiled as `values` say, into the folder."""
    from mllama_demo.engine.neuron.sdk import mllama_module

    model = mllama_module().NeuronMllamaForCausalLM(str(model_path), inference_config(model_path, values))
    model.compile(str(folder))


class _Events(logging.Handler):
    """Sends log messages to whoever asked."""

    def __init__(self, stream: Any) -> None:
        super().__init__(logging.INFO)
        self._stream = stream

    def send(self, **event: str) -> None:
        self._stream.write(json.dumps(event) + "\n")

    def emit(self, record: logging.LogRecord) -> None:
        self.send(log=record.getMessage())


def main() -> int:
    events = _Events(os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8"))
    os.dup2(2, 1)  # compilers print
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_one_who_asked, daemon=True).start()
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
    os._exit(0)  # without waiting for threads in which a compiler may still run


def _full_disk(error: BaseException, folder: Path) -> bool:
    """Whether it failed for want of room. torch and safetensors say so in their own words, and compilers say anything at all."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < NO_ROOM


def _end_with_the_one_who_asked() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)  # itself too: it leads a group of its own


if __name__ == "__main__":
    sys.exit(main())
