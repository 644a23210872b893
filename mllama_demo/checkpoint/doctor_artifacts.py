"""The doctor's check of the compiled model of backend neuron."""

from __future__ import annotations

from collections.abc import Iterator

from mllama_demo.checkpoint.compilation import artifacts as compiled_artifacts
from mllama_demo.checkpoint.compilation.compile import Compilation
from mllama_demo.checkpoint.compilation.fingerprint import fingerprint
from mllama_demo.checkpoint.findings import DoctorContext, Finding, Verdict
from mllama_demo.errors import ConfigError


def artifacts(context: DoctorContext) -> Iterator[Finding]:
    if context.settings.backend == "neuron" and context.compilation:
        state = artifacts_state(context.compilation)
        yield Finding("artifacts", *state)
        if context.compilation.shared and state[0] == "warn":
            yield Finding("shared artifacts", *_shared_state(context.compilation))


def artifacts_state(wanted: Compilation) -> Verdict:
    """Whether the model is compiled. Something else in its folder is a failure, because `serve` fails too."""
    folder = wanted.location.folder
    try:
        if wanted.exists:
            return "ok", f"{folder} was compiled from exactly this", ""
    except ConfigError as error:
        return "fail", str(error), ""
    remedy = "`python -m mllama_demo compile` with the same options; `serve` does it as well"
    near = None if wanted.location.from_environment else compiled_artifacts.closest(wanted.root, wanted.inputs)
    if near:
        return (
            "warn",
            f"nothing is compiled from this; in {near[0]}, the closest, {compiled_artifacts.first_three(near[1])}",
            remedy,
        )
    return "warn", f"nothing is compiled in {folder if wanted.location.from_environment else wanted.root}", remedy


def _shared_state(wanted: Compilation) -> Verdict:
    """Whether S3 has the model, which is fetched then instead of compiled."""
    assert wanted.shared is not None
    try:
        there = wanted.shared.has(fingerprint(wanted.inputs))
        waits = not there and wanted.lease is not None and wanted.lease.held_elsewhere()
    except ConfigError as error:
        return "fail", str(error), "or set compiled_artifacts to a folder of this machine"
    if there:
        return "ok", f"{wanted.shared.url} has it, and a start fetches it", ""
    here = wanted.checkpoint.identity is None
    if waits:  # a lease that has expired looks the same, so that a machine without weights may wait in vain
        text = f"{wanted.shared.url} lacks it, but another machine compiles it; a start waits for that one"
        return "ok" if here else "warn", text, ""
    if not here:
        text = f"{wanted.shared.url} lacks it, and the weights to compile it from are not here"
        return "fail", text, "compile with these options on a machine with the weights, or download the checkpoint"
    return "ok", f"{wanted.shared.url} lacks it, and gets what is compiled here", ""
