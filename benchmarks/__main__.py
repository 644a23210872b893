"""Every benchmark: python -m benchmarks NAME [options]."""

from __future__ import annotations

import importlib
import sys

from mllama_demo.errors import ConfigError

# Each is a module of this folder with a function main(), which reads sys.argv.
BENCHMARKS = {
    "start": ("first_light", "start-up, speed, scheduler overhead and memory of the whole program"),
    "model": ("model", "decode steps by slots, vocabulary and context, prompts by length, images by tiles, memory"),
    "sampler": ("sampler", "sampling by vocabulary, rows and values, against sorting"),
    "quantization": ("quantization", "how far a quantized checkpoint is from its weights"),
    "serve": ("serve", "image chats at once, against any OpenAI-compatible servers"),
    "engine-process": ("engine_process", "the model in a process of its own against one process, over HTTP"),
    "waits": ("waits", "estimated waits for a slot against actual ones"),
    "follow-ups": ("follow_ups", "the first token of later turns, and the gap that a long prompt makes"),
    "capacity": ("capacity", "the capacity plan against the real engine, with a profile measured from it"),
    "replicas": ("replicas", "the way through Ray, and the throughput of several replicas"),
    "faults": ("faults", "what is lost while replicas, web processes and the database fail or change"),
    "soak": ("soak", "hundreds of clients at once for minutes: whether every request ends once and nothing leaks"),
    "explore": ("explore", "a grid of answers, as a grid and as requests"),
    "pages": ("chat_load", "the chat page in a browser: opening, updates, memory"),
    "embedded": ("embedded", "the embedded checkpoint by its parts"),
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("python -m benchmarks NAME [options]; NAME --help shows the options.\n")
        for known, (_, what) in BENCHMARKS.items():
            print(f"  {known:14} {what}")
        return 0
    if name not in BENCHMARKS:
        print(f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}")
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    try:
        return module.main() or 0
    except ConfigError as error:  # what the benchmark needs is not here
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
