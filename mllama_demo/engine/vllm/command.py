"""`python -m mllama_demo vllm-command --config …`: the shell command that serves a Neuron configuration with vLLM.

Prints and starts nothing. The demo is then a front end for it: see configs/vllm-server.yaml. Imports nothing heavy.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.vllm.arguments import Generation, server_environment, server_flags

NOTES: dict[Generation, tuple[str, ...]] = {
    "legacy": (
        "For the Neuron fork of vLLM, 0.6 to 0.9, the only vLLM that serves Llama 3.2 Vision on Neuron.",
        "Where nothing is compiled for these values yet, it first compiles: 20 to 60 minutes.",
    ),
    "v1": (
        "For the vLLM-Neuron plugin, vLLM 0.11 and later. It does NOT serve Llama 3.2 Vision:",
        "the engine refuses this model. Here to compare, and for the day when it does.",
    ),
}


def main(options: Sequence[str], generation: Generation, host: str, port: int) -> int:
    """The command `vllm-command`, with the options of `serve`. host, port: where vLLM's server is to listen."""
    # Whatever the demo itself runs, the command is for a Neuron instance, and its values are checked for one.
    settings = load_settings([*options, "--backend", "neuron"])
    print("\n".join(f"# {note}" for note in NOTES[generation]), file=sys.stderr)
    print(command(settings, generation, host, port))
    return 0


def command(settings: Settings, generation: Generation = "legacy", host: str = "127.0.0.1", port: int = 8000) -> str:
    """One shell command, over several lines. host, port: where it listens; a server of its own without a key is best kept to
    its machine."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in server_environment(settings, generation).items()]
    flags = [*server_flags(settings, generation), "--host", host, "--port", str(port)]
    lines = [*variables, "python3 -m vllm.entrypoints.openai.api_server"]
    for flag in flags:
        if flag.startswith("--"):
            lines.append(f"    {flag}")
        else:
            lines[-1] += f" {shlex.quote(flag)}"
    return " \\\n".join(lines)
