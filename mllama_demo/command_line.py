"""What the verbs of `python -m mllama_demo` share: a parser whose errors are the program's own."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mllama_demo.errors import ConfigError


class VerbParser(argparse.ArgumentParser):
    """argparse's parser for one verb; a wrong command line raises ConfigError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        verb = self.prog.split()[-1]
        raise ConfigError(f"The command line of {verb} cannot be used: {message}; see {verb} --help.")
