"""`python -m mllama_demo vllm-command --config …`: prints the shell command that serves a Neuron configuration with vLLM.

The command is printed, not run. With configs/vllm-server.yaml the demo is a front end for that server.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.vllm.arguments import Generation, server_environment, server_flags
from mllama_demo.engine.vllm.engine import check_sampling

PLUGIN = Path(__file__).resolve().parent / "server_plugin"

NOTES: dict[Generation, tuple[str, ...]] = {
    "legacy": (
        "For the Neuron fork of vLLM, 0.6 to 0.9, the only vLLM that serves Llama 3.2 Vision on Neuron.",
        "The first start with these values compiles the model: 20 to 60 minutes.",
        "PYTHONPATH names a plugin of this checkout that corrects images; without it, images of several tiles are read wrongly.",
        "On another machine, clone this repository there and change the path.",
    ),
    "v1": (
        "For the vLLM-Neuron plugin, vLLM 0.11 and later. It does NOT serve Llama 3.2 Vision:",
        "the engine refuses this model. The command is for comparison only.",
    ),
}


def main(options: Sequence[str], generation: Generation, host: str, port: int) -> int:
    """Runs `vllm-command` with the options of `serve`. vLLM's server will listen at host and port. Returns the exit status."""
    settings = load_settings(options, neuron_command="`vllm-command`")
    if generation == "legacy":
        check_sampling(settings)
    print("\n".join(f"# {note}" for note in NOTES[generation]), file=sys.stderr)
    print(command(settings, generation, host, port))
    return 0


def command(settings: Settings, generation: Generation = "legacy", host: str = "127.0.0.1", port: int = 8000) -> str:
    """Returns the shell command, over several lines. The default host is loopback because the server asks for no API key."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in server_environment(settings, generation).items()]
    if generation == "legacy":
        variables.insert(0, f'PYTHONPATH={shlex.quote(str(PLUGIN))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    flags = [*server_flags(settings, generation), "--host", host, "--port", str(port)]
    lines = [*variables, "python3 -m vllm.entrypoints.openai.api_server"]
    for flag in flags:
        if flag.startswith("--"):
            lines.append(f"    {flag}")
        else:
            lines[-1] += f" {shlex.quote(flag)}"
    return " \\\n".join(lines)
