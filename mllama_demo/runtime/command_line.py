"""What the verbs of `python -m mllama_demo` share: parsers whose errors are the program's own."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mllama_demo.errors import ConfigError


class VerbParser(argparse.ArgumentParser):
    """argparse's parser for one verb; a wrong command line raises ConfigError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        verb = self.prog.split()[-1]
        raise ConfigError(f"The command line of {verb} cannot be used: {message}; see {verb} --help.")


def settings_parser(verb: str, own: str, description: str, epilog: str = "") -> VerbParser:
    """The parser of a verb that takes the options of serve beside its own: what parse_known_args leaves is for load_settings.

    own: the verb's own options as --help shows them. epilog: what its help ends with.
    """
    return VerbParser(
        prog=f"python -m mllama_demo {verb}",
        usage=f"%(prog)s {own} [--config FILE] [--OPTION VALUE ...]",
        description=description,
        epilog=f"Every option of serve can be given too, such as --model-path DIR; serve --help lists them. {epilog}",
        allow_abbrev=False,
    )
