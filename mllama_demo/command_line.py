"""How a command line is read: the Typer application, what its commands have in common, and how their failures are told.

Knows no command. cli.py registers them.
"""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand

from mllama_demo import __version__
from mllama_demo.errors import ConfigError, DemoError
from mllama_demo.runtime.console import ERROR_EXIT_CODE, discard_output, report_error, tolerate_every_character
from mllama_demo.runtime.process import SIGPIPE, exit_process

SERVE_OPTIONS = "Every option of serve can be given too, such as --model-path DIR; serve --help lists them."
_HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Llama 3.2 Vision in the browser, and what goes with it. COMMAND --help lists the options of a command.",
    add_completion=False,
    context_settings=_HELP_NAMES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    subcommand_metavar="COMMAND [OPTIONS]",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit code: of the command, or 2 after one sentence on stderr.
    """
    tolerate_every_character()
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = typer.main.get_command(app)
    name = "mllama-demo" if Path(sys.argv[0]).name == "mllama-demo" else "python -m mllama_demo"
    try:
        if not arguments:
            print(typer.Context(program, info_name=name).get_help(), file=sys.stderr)
            return ERROR_EXIT_CODE
        if arguments[0] == "help":
            arguments[0] = "--help"
        with program.make_context(name, list(arguments)) as context:
            return program.invoke(context) or 0
    except typer.Exit as end:  # --help and --version
        return end.exit_code
    except DemoError as error:
        return report_error(error)
    except typer.TyperException as error:  # a command line that Typer cannot use
        known = [command.name for command in app.registered_commands]
        hint = f"{arguments[0]} --help" if arguments[0] in known else "--help"
        problem = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")  # Typer's type check says so
        return report_error(f"The command line cannot be used: {problem}; see {hint}.")
    except KeyboardInterrupt:
        return report_error("Interrupted.")
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        discard_output()
        return 128 + SIGPIPE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        discard_output()
        return report_error(f"The output cannot be written: {error.strerror}.")


def run() -> NoReturn:
    """The entry point of the process."""
    exit_process(main())


class SettingsCommand(TyperCommand):
    """A command that takes the options of `serve` beside its own. Those of `serve` are left in `context.args`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Divides the words by what is known of the command's own options; every option of `serve` takes a value."""
        is_flag = {name: getattr(param, "is_flag", False) for param in self.get_params(ctx) for name in param.opts}
        takes_argument = any(isinstance(param, TyperArgument) for param in self.params)
        own: list[str] = []
        rest: list[str] = []
        words = list(args)
        while words:
            word = words.pop(0)
            name, equals, _ = word.partition("=")
            to = own if name in is_flag or (takes_argument and not word.startswith("--")) else rest
            to.append(word)
            takes_value = word.startswith("--") and not equals and not is_flag.get(name, False)
            if takes_value and words and (to is own or not words[0].startswith("--")):
                to.append(words.pop(0))
        _check_spelling(rest, list(is_flag))
        super().parse_args(ctx, own)
        ctx.args = rest
        return rest


def _check_spelling(words: Sequence[str], own: Sequence[str]) -> None:
    """Raises ConfigError for a word that is nearly one of a command's own options, and no option of `serve`."""
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and (close := difflib.get_close_matches(name, own, 1, 0.8)):
            from mllama_demo.config.settings import Settings

            if name.removeprefix("--").replace("-", "_") not in (*Settings.model_fields, "config", "help", "version"):
                raise ConfigError(f"The command line has an unknown option {name!r}: did you mean {close[0]}?")


def command(name: str, *, note: str = "", takes_serve_options: bool = True, **more: Any) -> Any:
    """Registers a command.

    Args:
        note: Sentences below the list of options, such as what each exit code means.
        takes_serve_options: Whether the command takes the options of `serve` beside its own.
        more: For Typer.
    """
    epilog = " ".join(text for text in (SERVE_OPTIONS if takes_serve_options else "", note) if text) or None
    options: dict[str, Any] = {"options_metavar": "[OPTIONS]", "epilog": epilog}
    if takes_serve_options:
        options |= {"cls": SettingsCommand, "options_metavar": "[OPTIONS] [OPTIONS OF SERVE]"}
    return app.command(name, context_settings=_HELP_NAMES, **(options | more))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mllama_demo {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass
