"""`python -m mllama_demo COMMAND`: the command line of cli.py."""

from __future__ import annotations

from mllama_demo.cli import run

if __name__ == "__main__":
    run()
