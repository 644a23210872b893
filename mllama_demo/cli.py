"""The command line: `python -m mllama_demo COMMAND` and `mllama-demo COMMAND` are this one Typer application.

The module knows the options of every command. What a command does lives beside its feature, and is imported when the command
is called, so that `--help` imports nothing heavy. The options of `serve` are not here: config/loader.py reads them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand

from mllama_demo import __version__
from mllama_demo.errors import DemoError
from mllama_demo.runtime.console import ERROR_EXIT_CODE, report_error
from mllama_demo.runtime.process import exit_process

_SERVE_OPTIONS = "Every option of serve can be given too, such as --model-path DIR; serve --help lists them."
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
        problem = " ".join(error.format_message().split()).rstrip(".")
        return report_error(f"The command line cannot be used: {problem}; see {hint}.")
    except KeyboardInterrupt:
        return report_error("Interrupted.")
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


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
        super().parse_args(ctx, own)
        ctx.args = rest
        return rest


def command(name: str, **more: Any) -> Any:
    """Registers a command. more: for Typer; by default the command takes the options of `serve` beside its own."""
    options = {"cls": SettingsCommand, "options_metavar": "[OPTIONS] [OPTIONS OF SERVE]", "epilog": _SERVE_OPTIONS}
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


# --- the commands --------------------------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@command("serve", add_help_option=False, epilog=None)
def serve(context: typer.Context) -> int:
    """Run the demo in the browser, as app.py does."""
    from mllama_demo.assembly import Demo
    from mllama_demo.web.serve import main

    return main(context.args, context.command_path, Demo)


@command(
    "offline",
    epilog=f"{_SERVE_OPTIONS} Exit code: 0 when all is answered, 1 when some lines failed, 2 when it cannot run, 130 when "
    "interrupted.",
)
def offline(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The batch: .jsonl with one object a line, .yaml or .yml.")],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write JSON lines there instead. Lines that FILE answers already are not asked again, so an interrupted batch "
            "continues. - prints them.",
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N ...]",
            help="How many prompts are asked at the same time; of several numbers, each is a round through the whole batch. "
            "Default: what the batch says, else one for each slot.",
        ),
    ] = None,
) -> int:
    """Answer a batch of prompts from a file, without a browser.

    Each prompt has its own image (a path relative to FILE, or a URL), temperature, top_p, top_k, max_tokens, seed and stop
    strings; configs/offline/tutorial.yaml shows how.
    """
    from mllama_demo.offline.command import main

    return main(context.args, file, output, concurrency)


@command(
    "explore",
    epilog=f"{_SERVE_OPTIONS} Exit code: 0 when every cell has an answer, 1 when some failed, 2 when it cannot run, 130 when "
    "interrupted.",
)
def explore(
    context: typer.Context,
    spec: Annotated[Path | None, typer.Option(metavar="GRID", help="The grid to run: a YAML file.")] = None,
    run: Annotated[Path | None, typer.Option(metavar="FILE", help="Show a run that --output wrote, instead of running.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything there, as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the cells there, for a spreadsheet.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page there, to read and to print.")] = None,
) -> int:
    """Run one image and prompt under many sampling values.

    Runs every combination of some temperatures, top_p, top_k and seeds, and prints the answers and what they have in common;
    configs/explore/tutorial.yaml shows how. Either --spec or --run is needed.
    """
    from mllama_demo.explore.command import Outputs, run_grid, show_run

    outputs = Outputs(output, csv, html)
    if spec is not None and run is None:
        return run_grid(context.args, spec, outputs)
    if run is not None and spec is None:
        return show_run(context.args, run, outputs)
    raise typer.BadParameter("give one of them", param_hint=["--spec", "--run"])


@command(
    "rehearse",
    epilog=f"{_SERVE_OPTIONS} Exit code: 0 when every answer is as expected, 1 when some are not, 2 when it cannot run.",
)
def rehearse(
    context: typer.Context,
    scenario: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="One of the folder of scenarios, or a YAML file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The recording; default: in recordings/ of the data folder.")
    ] = None,
) -> int:
    """Check a scripted demo and record its answers.

    Asks every step of a scenario, checks each answer against what its step expects, and records answers and timings. Present
    mode plays the recording, labelled as one, when the model fails on stage.
    """
    from mllama_demo.present.command import main

    return main(context.args, scenario, output)


@command("convert", cls=None, epilog=None)
def convert(
    input_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Meta's folder: consolidated.*.pth, params.json, tokenizer.model.")
    ],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="The converted checkpoint; the folder must not exist yet.")],
    instruct: Annotated[
        bool,
        typer.Option("--instruct", help="The model is an Instruct one: give it the chat template and the ends of its turns."),
    ] = False,
    num_shards: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many consolidated.*.pth there must be (11B: 1, 90B: 8); default: all."),
    ] = None,
) -> int:
    """Convert Meta's checkpoint into the Hugging Face layout."""
    from mllama_demo.checkpoint.meta.convert import main

    return main(input_dir, output_dir, instruct, num_shards)


@command("compile")
def compile_model(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> int:
    """Compile a model for a Neuron instance, or find it compiled.

    The compiled model is a folder named by a fingerprint of all that it is made of. The environment variable
    NEURON_COMPILED_ARTIFACTS names the folder itself.
    """
    from mllama_demo.checkpoint.compilation.compile import main

    return main(context.args, dry_run)


@command("plan")
def plan(
    context: typer.Context,
    shape: Annotated[
        Literal["11B", "90B"] | None,
        typer.Option(case_sensitive=False, help="Plan for a published model, without its files."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Say whether a configuration fits a Neuron device's memory.

    Says what each core's memory holds, and which other configurations would fit.
    """
    from mllama_demo.checkpoint.plan import main

    return main(context.args, shape, as_json)


@command("vllm-command")
def vllm_command(
    context: typer.Context,
    generation: Annotated[Literal["legacy", "v1"], typer.Option(help="Of vLLM for Neuron.")] = "legacy",
    server_host: Annotated[str, typer.Option(help="The address that the server listens on.")] = "127.0.0.1",
    server_port: Annotated[int, typer.Option(min=1, max=65535, help="The port that the server listens on.")] = 8000,
) -> int:
    """Print vLLM's server command for a Neuron configuration."""
    from mllama_demo.engine.vllm.command import main

    return main(context.args, generation, server_host, server_port)


@command("hash-password", cls=None, options_metavar="", epilog=None)
def hash_password(
    name: Annotated[str, typer.Argument(help="Letters, digits and . _ @ + - ; 64 characters at most.")],
) -> int:
    """Make an entry for the option users.

    The entry is the name and a hash of the password. The command asks for the password.
    """
    from mllama_demo.config.passwords import main

    return main(name)


@command("doctor")
def doctor(context: typer.Context, as_json: AsJson = False) -> int:
    """Say whether this machine is ready for a configuration.

    Says what to do if it is not. Changes nothing.
    """
    from mllama_demo.checkpoint.doctor import main

    return main(context.args, as_json)
