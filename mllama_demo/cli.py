"""The command line: `python -m mllama_demo COMMAND` and `mllama-demo COMMAND` are this one Typer application.

The module knows the options of every command. What a command does lives beside its feature, and is imported when the command
is called, so that `--help` imports nothing heavy. The options of `serve` are not here: config/loader.py reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mllama_demo.command_line import app, command, main, run
from mllama_demo.errors import ConfigError

__all__ = ["app", "command", "main", "run"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@command("serve", add_help_option=False, epilog=None)
def serve(context: typer.Context) -> int:
    """Run the demo in the browser, as app.py does."""
    from mllama_demo.assembly import Demo
    from mllama_demo.web.serve import main

    return main(context.args, context.command_path, Demo)


@command(
    "offline",
    note="Exit code: 0 when all is answered, 1 when some lines failed, 2 when it cannot run, 130 when interrupted.",
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
    strings; configs/offline/tutorial.yaml shows how. A file of OpenAI's batch format is answered in its own output format.
    """
    from mllama_demo.offline.command import main

    return main(context.args, file, output, concurrency)


@command(
    "explore",
    note="Exit code: 0 when every cell has an answer, 1 when some failed, 2 when it cannot run, 130 when interrupted.",
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
    note="Exit code: 0 when every answer is as expected, 1 when some are not, 2 when it cannot run.",
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


@command(
    "download",
    takes_serve_options=False,
    note="HF_TOKEN and the token of `hf auth login` are used. Exit code: 0 when the checkpoint is there, 2 when it cannot be "
    "downloaded, 130 when interrupted.",
)
def download(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the Hugging Face hub.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to download into; default: the cache of the hub (HF_HOME, HF_HUB_CACHE)."),
    ] = None,
    revision: Annotated[str, typer.Option(metavar="REV", help="A branch, a tag or a commit.")] = "main",
) -> int:
    """Download a checkpoint from the Hugging Face hub.

    Gets only the files that the demo reads, and checks them. The same command resumes an interrupted download.
    """
    from mllama_demo.checkpoint.download.command import main

    return main(repository, to, revision)


@command("convert", takes_serve_options=False)
def convert(
    input_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Meta's folder: consolidated.*.pth, params.json, tokenizer.model.")
    ],
    output_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="The converted checkpoint; a folder that is empty or does not exist.")
    ],
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
    traffic: Annotated[
        str | None,
        typer.Option(help="How many instances these visitors need, as people=200,questions_per_minute=1.5.", metavar="TEXT"),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="With --traffic: the times of the device, by name or as a YAML file.", metavar="TEXT")
    ] = None,
    from_store: Annotated[
        bool,
        typer.Option("--from-store", help="Suggest buckets from the lengths of the prompts and answers that the store has."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Say whether a model fits Neuron, a GPU or this machine.

    Says what each core's memory holds, and which other configurations would fit. For backend torch, which --device cpu or
    --device cuda chooses too, says which quantization of the model fits the memory of this machine or of its GPU. With
    --traffic, says how many instances so many visitors need, how long they wait, and what it costs.
    """
    if traffic is not None:
        from mllama_demo.capacity.report import main as plan_traffic

        return plan_traffic(context.args, traffic, profile, shape, as_json, from_store)
    if profile is not None:
        raise ConfigError("--profile goes with --traffic.")
    from mllama_demo.checkpoint.plan import main

    return main(context.args, shape, as_json, from_store)


@command("ray-deploy")
def ray_deploy(
    context: typer.Context,
    wait_for_machines: Annotated[
        bool,
        typer.Option("--wait-for-machines", help="Deploy although the cluster lacks resources: its machines start on demand."),
    ] = False,
) -> int:
    """Start replicas of the model on a Ray cluster.

    Web processes reach them with --backend ray. Replaces the replicas of an earlier deployment one by one; each of them ends its
    answers first.
    """
    from mllama_demo.backends.ray import deploy
    from mllama_demo.config.loader import load_settings

    return deploy(load_settings(context.args), wait_for_machines)


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


@command("hash-password", takes_serve_options=False, options_metavar="")
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


@command(
    "verify",
    note="Exit code: 0 when everything agrees, 1 when something differs, 2 when it cannot run.",
)
def verify(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for report.md and report.json, which name no path, host or key.")
    ] = Path("verify-report"),
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Compute the reference and write it there, for a machine that cannot; compare nothing."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="A reference that --record wrote; none compares the engine with itself only. Default: computed here first.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="The largest difference of a logit. Default: by the number format of the engine."),
    ] = None,
) -> int:
    """Compare the engine with PyTorch on the CPU.

    Loads the engine of backend neuron or torch and compares it with a reference on the CPU: text, images of every aspect ratio,
    every bucket, mixed batches, reused slots, and sampling by row. Measures times and device memory.
    """
    from mllama_demo.verify.command import main

    return main(context.args, output, record, reference, tolerance)
