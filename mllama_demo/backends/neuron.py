"""Loads the model of backend neuron: fetches or compiles it first if it must, and shares it when it is ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mllama_demo.chat.message_summary import duration
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.settings import Settings
from mllama_demo.engine.loading_progress import LoadingProgress
from mllama_demo.engine.neuron.compiler_log import report_loading
from mllama_demo.engine.neuron.weights_progress import WeightsProgress
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.slot_backend import Progress
from mllama_demo.runtime.process import UPLOAD_THREAD

if TYPE_CHECKING:
    from mllama_demo.checkpoint.compilation.compile import Compilation

log = logging.getLogger(__name__)


class NeuronLoader:
    """Loads a compiled model, and uploads it afterwards where compiled models are shared in S3."""

    def __init__(self) -> None:
        self._compilation: Compilation | None = None

    def load(self, settings: Settings, checkpoint: CheckpointInfo, progress: Progress) -> ModelRunner:
        """Compiles the model first if no compiled model fits the settings."""
        from mllama_demo.checkpoint.compilation.compile import (
            check_can_compile,
            describe_progress,
            ensure_compiled,
            plan_compilation,
        )

        progress("looking for the compiled model")
        self._compilation = compilation = plan_compilation(settings)
        check_can_compile(compilation)
        try:
            folder = ensure_compiled(
                compilation,
                lambda now, seconds: progress(f"compiling it first, {describe_progress(now, seconds)}"),
                report=log.info,
                on_transfer=LoadingProgress(
                    lambda text: progress(f"transferring the compiled model, {text}"),
                    lambda text: log.info("compiled model: %s", text),
                ),
                on_wait=lambda seconds: progress(
                    f"waiting for another machine, which compiles the same model, {duration(seconds)}"
                ),
            )
            progress("importing the Neuron SDK")
            from mllama_demo.engine.neuron.runner import NeuronRunner

            progress("loading the compiled model")
            shown = LoadingProgress(
                lambda text: progress(f"loading the weights onto the device, {text}"),
                lambda text: log.info("loading the model: %s", text),
            )
            with report_loading(progress, WeightsProgress(folder, shown)):
                return NeuronRunner.load(folder, checkpoint.image_token_id)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Lets other machines compile the same model. For a caller that does not share it."""
        if self._compilation is not None and self._compilation.lease is not None:
            self._compilation.lease.release()

    def share_after(self, on_ready: Callable[[], None]) -> None:
        """Calls on_ready, and uploads the model in the background if S3 has none: visitors need not wait for the upload."""
        on_ready()
        if self._compilation is not None and self._compilation.shared is not None:
            threading.Thread(target=self._share, args=(self._compilation,), name=UPLOAD_THREAD, daemon=True).start()

    def _share(self, compilation: Compilation) -> None:
        from mllama_demo.checkpoint.compilation.compile import share

        try:
            share(compilation, log.info, LoadingProgress(lambda text: None, partial(log.info, "sharing it: %s")))
        except Exception:
            log.exception("the compiled model is not shared")
