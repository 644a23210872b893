"""The doctor's checks of the two backends whose engine is another program: a remote server, and vLLM's Neuron fork.

The check of a remote server is the only one that uses the network: it asks that server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from mllama_demo.checkpoint.findings import DoctorContext, Finding
from mllama_demo.engine.ray.cluster import check_head
from mllama_demo.engine.remote.probe import RemoteServer, new_client, probe
from mllama_demo.engine.vllm.arguments import engine_environment
from mllama_demo.engine.vllm.engine import check_vllm, installed_fork
from mllama_demo.errors import ConfigError, DemoError, cause_of
from mllama_demo.runtime.words import counted

_CAPABILITIES = {"images": "no images", "seed": "no seeds", "logprobs": "no probabilities"}


def remote_server(context: DoctorContext) -> Iterator[Finding]:
    """Whether the server answers, which model it has, how long its context is, and what it ignores."""
    if context.settings.backend != "openai":
        return
    url = context.settings.remote_url
    if "openai" not in context.machine.versions:
        yield Finding("remote server", "fail", "the package openai is not installed in this environment", "pip install openai")
        return
    try:
        found = asyncio.run(_ask(context))
    except DemoError as error:
        remedy = "start it, or set remote_url, remote_model or remote_api_key to what is right for it"
        yield Finding("remote server", "fail", cause_of(error), remedy)
        return
    yield Finding("remote server", "ok", f"{url} answers; it is {found.provider.label}")
    images = "images" in found.provider.capabilities
    text = found.model + ("" if images else ", which reads no images")
    yield Finding("model", "ok" if images and not found.note else "warn", text, found.note)
    if found.context_length:
        yield Finding("context", "ok", f"{found.context_length:,} tokens")
    else:
        text = "the server does not tell its context, so that the server itself refuses what is too long"
        yield Finding(
            "context", "warn", text, "set its context where its program allows it, so that old turns are left out in time"
        )
    slots = context.settings.remote_concurrency or found.slots or found.provider.concurrency
    yield Finding("at the same time", "ok", f"{counted(slots, 'request')}, the others wait here")
    yield Finding("ignored", "ok", _ignored(found))


def ray_cluster(context: DoctorContext) -> Iterator[Finding]:
    """Whether the cluster's head answers, and whether the tokenizer is here. Asking the replicas would take Ray itself."""
    if context.settings.backend != "ray":
        return
    address = context.settings.ray_address
    try:
        if address is not None:
            check_head(address)
            yield Finding("ray cluster", "ok", f"{address} answers")
        else:
            yield Finding("ray cluster", "ok", "RAY_ADDRESS, or the cluster of this machine; ray_address is not set")
    except ConfigError as error:
        yield Finding("ray cluster", "fail", str(error))
    tokenizer = context.settings.model_path / "tokenizer.json"
    if tokenizer.is_file():
        yield Finding("tokenizer", "ok", f"{tokenizer}; the replicas have the weights")
    else:
        text = f"{tokenizer} is not there; this process needs the tokenizer of the replicas' model"
        yield Finding(
            "tokenizer", "fail", text, "copy the checkpoint's files without the weights, and name their folder in model_path"
        )


async def _ask(context: DoctorContext) -> RemoteServer:
    client = new_client(context.settings)
    try:
        return await probe(client, context.settings)
    finally:
        await client.close()


def _ignored(found: RemoteServer) -> str:
    """What has no effect with this server, in words."""
    lacking = [words for name, words in _CAPABILITIES.items() if name not in found.provider.capabilities]
    ignored = [f"{name} ({reason.rstrip('.')})" for name, reason in found.provider.ignored.items()]
    if not lacking and not ignored:
        return "nothing that the page has a control for"
    return "; ".join([*lacking, *(f"without effect: {name}" for name in ignored)])


def vllm_fork(context: DoctorContext) -> Iterator[Finding]:
    """Whether vLLM's Neuron fork is installed here, and where it keeps its compiled model."""
    if context.settings.backend != "vllm":
        return
    try:
        check_vllm(context.settings)
    except ConfigError as error:
        yield Finding("vllm", "fail", str(error))
    else:
        based = "0.6 or 0.7" if installed_fork().needs_empty_image else "0.9"
        yield Finding("vllm", "ok", f"AWS's fork, based on vLLM {based}")
    try:
        variables = {**context.machine.environ, **engine_environment(context.settings)}
    except ConfigError as error:
        yield Finding("artifacts", "fail", str(error))
        return
    named = variables.get("NEURON_COMPILED_ARTIFACTS")
    folder = Path(named) if named else context.settings.model_path / "neuron-compiled-artifacts"
    if folder.is_dir() and any(folder.iterdir()):
        yield Finding("artifacts", "ok", f"{folder} has something compiled, which vLLM loads without comparing it with this")
    else:
        yield Finding(
            "artifacts", "warn", f"nothing is compiled in {folder}", "vLLM compiles when it starts, half an hour or more"
        )
