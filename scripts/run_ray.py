"""Starts a Ray cluster of this machine, two replicas of the model in it, and the demo in front of them. Ctrl-C ends all of it.

python scripts/run_ray.py [--replicas N] [options of serve, for the replicas too]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import sigterm_as_interrupt
from mllama_demo.runtime.with_parent import with_parent
from scripts.local_ray import local_cluster

_END_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replicas", type=int, default=2)
    args, options = parser.parse_known_args()
    print("starting a Ray cluster on this machine …", flush=True)
    program = [sys.executable, "-m", "mllama_demo"]
    try:
        with sigterm_as_interrupt(), local_cluster(cpus=args.replicas) as (address, environment):
            options = ["--ray-address", address, *options]
            code = _run([*program, "ray-deploy", "--ray-replicas", str(args.replicas), *options], environment)
            return code or _run([*program, "serve", *options, "--backend", "ray"], environment)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _run(line: list[str], environment: dict[str, str]) -> int:
    """A program to its end. An interrupt ends it in order before the cluster goes."""
    process = subprocess.Popen(with_parent(line), env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(_END_S)
        raise
    finally:
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
