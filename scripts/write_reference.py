"""Writes the pages in docs/reference from the code: `make reference`.

The same code always gives the same pages, so that a test can compare them with the committed ones.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.reference_tables import code, fields, models, number, summary, table  # noqa: E402

PAGES = ROOT / "docs" / "reference"
NOTE = "<!-- Written by scripts/write_reference.py from the code. Change the code, then run `make reference`. -->"


# --- the pages -------------------------------------------------------------------------------------------------------------


def options() -> list[str]:
    from mllama_demo.config.loader import ENV_PREFIX
    from mllama_demo.config.option_texts import allowed_values, group
    from mllama_demo.config.settings import Settings

    lines = [
        "# Options",
        "",
        "Every option can stand in a YAML file (`--config FILE`), in an environment variable or on the command line. The command",
        "line wins over the environment, and the environment over the file. The option `max_tokens`, for example, is the key",
        f"`max_tokens` in YAML, the variable `{ENV_PREFIX}MAX_TOKENS` and the flag `--max-tokens`.",
        f"The variable `{ENV_PREFIX}CONFIG` names the YAML file where `--config` does not.",
        "",
        "On the command line and in the environment a list is written with commas, and a mapping as JSON. An empty variable",
        "counts as not set. A value that an option does not take ends the program with one sentence and exit code 2.",
        "",
    ]
    groups: dict[str, list[list[str]]] = {}
    for name, field in Settings.model_fields.items():
        row = [f"`{name}`", allowed_values(name), default_of(name), field.description or ""]
        groups.setdefault(group(name), []).append(row)
    for heading, rows in groups.items():
        lines += [f"## {heading}", *table(["option", "value", "default", "meaning"], rows)]
    return lines


def default_of(name: str) -> str:
    """The default of an option, without a path of this machine."""
    from pydantic import BaseModel

    from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, SCENARIOS, Settings

    default: Any = Settings.model_fields[name].default
    if isinstance(default, BaseModel):
        return code(default.model_dump())
    words = {None: "not set", "": "empty", EMBEDDED_CHECKPOINT: "the embedded checkpoint", SCENARIOS: "the shipped scenarios"}
    return words.get(default) or (f"`{default}`" if isinstance(default, (str, Path)) else code(default))


def commands() -> list[str]:
    import typer

    from mllama_demo.cli import app

    program: Any = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "The program is called `mllama-demo`, or `python -m mllama_demo` in a checkout. `python app.py` is the command `serve`.",
        "",
        *table(["command", "purpose"], [[f"[`{name}`](#{name})", _first(one.help)] for name, one in program.commands.items()]),
    ]
    for name, command in program.commands.items():
        context = command.make_context(f"mllama-demo {name}", [], resilient_parsing=True)
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        lines += [f"## {name}", "", inspect.cleandoc(command.help or ""), "", "```", usage, "```", ""]
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [[f"`{record[0]}`", record[1]] for record in records if record]
        lines += table(["argument or option", "meaning"], rows) if rows else []
        lines += [
            inspect.cleandoc(command.epilog or "").replace("serve --help lists them", "[Options](options.md) lists them"),
            "",
        ]
    return lines


def _first(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0]


def http_api() -> list[str]:
    from mllama_demo.openai_api.response_schema import ChatChunk
    from mllama_demo.openai_api.unknown_fields import HARMLESS, NEUTRAL

    described = _application().openapi()
    schemas = described["components"]["schemas"]
    links = {name: name for name in schemas}
    lines = [
        "# HTTP API",
        "",
        "The server describes itself at `/openapi.json`; this page is made from that description. The [guide](../api.md) has",
        "examples. Where the server has `api_keys`, every route below `/v1` needs the header `Authorization: Bearer KEY`.",
        "",
        "## Routes",
        "",
    ]
    rows = [
        [f"`{method.upper()} {path}`", _first(one.get("description")) or one.get("summary", ""), ", ".join(one["responses"])]
        for path, methods in described["paths"].items()
        for method, one in methods.items()
    ]
    lines += table(["route", "purpose", "status codes"], rows)
    body = described["paths"]["/v1/explore"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    lines += ["## Body of `POST /v1/explore`", "", body["description"], *fields(body, {})]
    lines += ["Example:", "", "```json", json.dumps(body["example"], indent=2), "```", ""]
    lines += ["## Objects", ""]
    for name, schema in schemas.items():
        if "properties" in schema and not name.endswith("ValidationError"):
            text = summary(schema.get("description", ""))
            lines += [f"### {name}", "", text, *fields(schema, links, sampling=name.endswith("Request"))]
    lines += [
        "## Chunks of a streamed answer",
        "",
        "A stream is a line `data: {…}` for each of these objects, and at last `data: [DONE]`.",
        "",
        *models({"ChatChunk": ChatChunk}, list(schemas), sampling=False),
    ]
    lines += [
        "## Refused fields of a chat request",
        "",
        "These fields of other servers would change the answer, so the server refuses them unless they have a value that changes",
        "nothing. `null` is always accepted.",
        *table(["field", "accepted values"], [[f"`{n}`", ", ".join(map(code, v)) or "`null`"] for n, v in NEUTRAL.items()]),
        "## Ignored fields of a chat request",
        "",
        "The header `X-Ignored-Fields` of an answer names the fields that had no effect. Among them may be",
        ", ".join(f"`{name}`" for name in sorted(HARMLESS)) + ",",
        "and every unknown field that carries nothing for the model to read or to see.",
        "",
        "## Metrics",
        "",
        "`GET /metrics` answers in the text format of Prometheus. Every sample has the label `model_name`.",
        *table(["name", "type", "meaning"], _metrics()),
    ]
    return lines


def _backend() -> Any:
    """As much of a backend as the description of the API needs."""
    from mllama_demo.engine.base import BackendInfo, BackendStatus

    capabilities = frozenset({"images", "seed", "probabilities"})
    status = BackendStatus("ready", "", 0, 0, 4, 64, 0.0)
    return SimpleNamespace(info=BackendInfo("none", "model", "none", 4, 2048, 224, 4, capabilities), status=lambda: status)


def _application() -> Any:
    from mllama_demo.assembly import create_app
    from mllama_demo.chat.token_estimate import TokenEstimate
    from mllama_demo.config.settings import Settings

    return create_app(Settings(api_only=True), _backend(), TokenEstimate())


def _metrics() -> list[list[str]]:
    from mllama_demo.engine.neuron.monitor import NeuronMonitor
    from mllama_demo.engine.neuron.monitor_report import MonitorReport
    from mllama_demo.web.metrics import Metrics

    neuron = NeuronMonitor(["none"])
    neuron.take(MonitorReport(host_bytes=0, core_bytes=0))
    page = Metrics(_backend(), "model", lambda: None, idle_s=lambda: 0.0, neuron=neuron).render()[0].decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    helps = re.findall(r"^# HELP (\S+) (.*)$", page, re.MULTILINE)
    return [[f"`{name}`", types[name], text] for name, text in helps if not name.endswith("_created")]


def file_formats() -> list[str]:
    from mllama_demo.chat import export
    from mllama_demo.explore import grid, results
    from mllama_demo.offline.batch import KEYS
    from mllama_demo.present import recording, spec
    from mllama_demo.sampling import REQUEST_BOUNDS

    def bound(name: str) -> str:
        kind = "whole number" if REQUEST_BOUNDS[name].whole else "number"
        return f"{kind} from {number(REQUEST_BOUNDS[name].minimum)} to {number(REQUEST_BOUNDS[name].maximum)}"

    batch = {
        "prompt": ("text", "The question; required."),
        "image": ("a path, or an address", "A path is relative to the file."),
        "stop": ("list of at most 4 texts", "The answer ends before any of them."),
        **{name: (bound(name), REQUEST_BOUNDS[name].help.capitalize() + ".") for name in REQUEST_BOUNDS},
    }
    return [
        "# File formats",
        "",
        "A YAML file may not give a key twice. An unknown key is an error, and the message names the key that is closest to it.",
        "",
        "## Configuration",
        "",
        "A YAML file of [options](options.md), for `--config`. The files in `configs/` are examples.",
        "",
        "## Batch of prompts",
        "",
        "For the command [`offline`](commands.md#offline); `configs/offline/tutorial.yaml` is an example. A file `.jsonl` has",
        "one JSON object a line. A file `.yaml` is a list of mappings, or a mapping with that list under `prompts`. The mapping",
        "may have `concurrency`: how many prompts are answered at the same time. A list of numbers is a round for each.",
        *table(["key", "value", "meaning"], [[f"`{name}`", *batch[name]] for name in KEYS]),
        "## Grid of an exploration",
        "",
        "For the command [`explore`](commands.md#explore); `configs/explore/tutorial.yaml` is an example. In addition to the",
        "keys below, `image` is a path relative to the file, or an `http:`, `https:` or `data:` address.",
        "",
        *models({"Grid": grid.Grid}),
        "## Run of an exploration",
        "",
        "The JSON file that `explore --output` writes, that `/explore` exports and imports, and that `explore --run` opens.",
        "",
        *models({"Run": results.Run}, ["Grid"]),
        "## Scenario of a presentation",
        "",
        "A YAML file in the folder `scenarios_dir`. [Presenting](../presenting.md) explains how to use one.",
        "",
        *models({"Scenario": spec.Script}),
        "## Recording of a rehearsal",
        "",
        "The JSON file that a rehearsal writes.",
        "",
        *models({"Recording": recording.Recording}, sampling=False),
        "## Exported conversation",
        "",
        "The JSON file that the chat exports and imports.",
        "",
        *models({"Conversation": export._Conversation}, sampling=False),
    ]


WRITERS: dict[str, Callable[[], list[str]]] = {
    "options.md": options,
    "commands.md": commands,
    "http-api.md": http_api,
    "file-formats.md": file_formats,
}


def page(name: str) -> str:
    """The text of one page."""
    lines = WRITERS[name]()
    text = "\n".join([lines[0], "", NOTE, *lines[1:]])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in WRITERS:
        (PAGES / name).write_text(page(name), encoding="utf-8")
        print(f"Written: docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
