"""`python -m mllama_demo vllm-command --config …`: the shell command that serves a Neuron configuration with vLLM.

Prints and starts nothing. The demo is then a front end for it: see configs/vllm-server.yaml. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.vllm.arguments import Generation, server_environment, server_flags
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.command_line import settings_parser

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


def main(argv: Sequence[str]) -> int:
    """The verb `vllm-command`. Exit code 0, or 2 when the configuration cannot be read."""
    parser = _parser()
    own, rest = parser.parse_known_args(argv)
    if not 1 <= own.server_port <= 65535:
        raise ConfigError(f"--server-port must be a whole number from 1 to 65535, got {own.server_port}.")
    # Whatever the demo itself runs, the command is for a Neuron instance, and its values are checked for one.
    settings = load_settings([*rest, "--backend", "neuron"], program=parser.prog)
    print("\n".join(f"# {note}" for note in NOTES[own.generation]), file=sys.stderr)
    print(command(settings, own.generation, own.server_host, own.server_port))
    return 0


def _parser() -> argparse.ArgumentParser:
    about = "Prints the shell command that serves a Neuron configuration with vLLM."
    parser = settings_parser("vllm-command", "[--generation legacy|v1]", about)
    parser.add_argument("--generation", default="legacy", choices=list(NOTES), help="of vLLM for Neuron; default: legacy")
    parser.add_argument("--server-host", default="127.0.0.1", help="address for it to listen on; default: 127.0.0.1")
    parser.add_argument("--server-port", default=8000, type=int, help="port for it to listen on; default: 8000")
    return parser


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
