"""`python -m mllama_demo <verb>`: everything the demo does besides what app.py does, and that too.

A new verb is one line in VERBS: a sentence for --help and the function that takes the arguments after the verb and returns an
exit code. Its module is imported when the verb is used and not before, so that --help is instant.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mllama_demo import __version__
from mllama_demo.errors import DemoError
from mllama_demo.runtime.process import leave

USAGE_ERROR = 2


@dataclass(frozen=True)
class Verb:
    """help: one sentence. target: "module:function"; of a DemoError that it raises, the message is all that is shown."""

    help: str
    target: str


VERBS = {
    "serve": Verb("Run the demo in the browser, as app.py does.", "mllama_demo.web.serve:main"),
    "offline": Verb("Answer a batch of prompts from a file, without a browser.", "mllama_demo.offline.command:main"),
    "explore": Verb("Run one image and prompt under many sampling values.", "mllama_demo.explore.command:main"),
    "rehearse": Verb("Check a scripted demo and record its answers.", "mllama_demo.present.command:main"),
    "convert": Verb("Turn Meta's original checkpoint into the Hugging Face layout.", "mllama_demo.checkpoint.meta.convert:main"),
    "compile": Verb(
        "Compile a model for a Neuron instance, or find it compiled.", "mllama_demo.checkpoint.compilation.compile:main"
    ),
    "plan": Verb("Say whether a configuration fits the memory of a Neuron device.", "mllama_demo.checkpoint.plan:main"),
    "vllm-command": Verb(
        "Print the command of vLLM's server for a Neuron configuration.", "mllama_demo.engine.vllm.command:main"
    ),
    "hash-password": Verb("Make an entry for the option users.", "mllama_demo.config.passwords:main"),
    "doctor": Verb("Say whether this machine is ready for a configuration.", "mllama_demo.checkpoint.doctor:main"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb. Exit code 0, or 2 with one sentence on stderr; `--help` and `--version` never import a verb's module."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(usage(), file=sys.stderr)
        return USAGE_ERROR
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb == "--version":
        print(f"mllama_demo {__version__}")
        return 0
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}."
        return _fail(f"{verb!r} is nothing this program does: {hint}")
    module, _, function = VERBS[verb].target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(rest)
    except DemoError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("Interrupted.")
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def usage() -> str:
    """What --help prints."""
    width = max(map(len, VERBS))
    lines = [f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        ["usage: python -m mllama_demo VERB [OPTION ...]", "", *lines, "", "VERB --help lists the options of a verb."]
    )


def _fail(sentence: str) -> int:
    print(f"mllama-demo: {sentence}", file=sys.stderr, flush=True)
    return USAGE_ERROR


if __name__ == "__main__":
    leave(main())
