"""Reads the settings from the YAML file, the environment and the command line; the later ones win.

Flags, environment variables and `--help` are derived from the fields of `Settings`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from pydantic import ValidationError

from mllama_demo import __version__
from mllama_demo.config.hub_cache import checkpoint_name, find_checkpoint, new_snapshot
from mllama_demo.config.model_shape import ModelShape, published_by_name, read_shape
from mllama_demo.config.neuron import NOT_OPTIONS, OnDeviceSampling, first_problem
from mllama_demo.config.option_texts import allowed_values, group
from mllama_demo.config.option_types import expand_home
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, SCENARIOS, Settings
from mllama_demo.config.yaml_file import parse_mapping, read_file
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.logs import set_up_logging

ENV_PREFIX = "MLLAMA_DEMO_"
CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
# Variables of Gradio, which hosts and users of Gradio set. The file, our own variables and the command line win.
GRADIO_VARIABLES = {"host": "GRADIO_SERVER_NAME", "port": "GRADIO_SERVER_PORT", "root_path": "GRADIO_ROOT_PATH"}
_EXAMPLE = "configs/trn1-90b.yaml"
# Kubernetes gives every container of a namespace MLLAMA_DEMO_PORT=tcp://ADDRESS:PORT for a service named mllama-demo.
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def load_settings(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    program: str | None = None,
    shape: ModelShape | None = None,
    neuron_command: str | None = None,
    torch_too: bool = False,
) -> Settings:
    """Reads and checks the settings. `--help` and `--version` end the program.

    Args:
        argv: the arguments after the program's name; None takes sys.argv.
        environ: None takes os.environ; an empty variable counts as not set.
        program: the name of the program in `--help`.
        shape: the model to check the Neuron options for; None reads the one in model_path.
        neuron_command: the command, for messages, that takes every configuration as one of backend neuron; None for the others.
        torch_too: with neuron_command: a configuration that names backend torch, or a device and no backend, stays one of torch.

    Raises:
        ConfigError: for the first value that cannot be used; the sentence names where the value is from.
        CheckpointError: model_path means several snapshots in the cache of the hub.
    """
    environ = os.environ if environ is None else environ
    from_flags = _read_flags(argv, program)
    config, named_by = from_flags.pop("config", None), "--config"
    if config is None and environ.get(CONFIG_VARIABLE):
        config, named_by = environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    from_file = {} if config is None else _read_yaml(expand_home(config), named_by)
    from_environment = _read_environment(environ)
    from_gradio = {name: environ[key] for name, key in GRADIO_VARIABLES.items() if environ.get(key)}
    if "://" in from_gradio.get("root_path", ""):  # Gradio takes a whole address, too
        from_gradio["root_path"] = urlsplit(from_gradio["root_path"]).path
    values = {**from_gradio, **from_file, **from_environment, **from_flags}

    def origin(name: str) -> str:
        if name in from_flags:
            return f"from {_flag(name)} on the command line"
        if name in from_environment:
            return f"from environment variable {_variable(name)}"
        if name in from_file:
            return f"from {config}"
        return f"from environment variable {GRADIO_VARIABLES[name]}" if name in from_gradio else "the default"

    for_torch = values.get("backend", "torch" if values.get("device", "auto") != "auto" else None) == "torch"
    if neuron_command is not None and not (torch_too and for_torch):
        _check_meant_for_neuron(neuron_command, values, origin, shape)
        values["backend"] = "neuron"
    try:
        settings = Settings(**values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        given = f"got {repr(values[name])[:80]}" if Settings.model_fields[name].repr else "got something else"
        raise ConfigError(f"{name} must be {allowed_values(name)}, {given} ({origin(name)}).") from None
    model_path = find_checkpoint(settings.model_path, environ)
    if settings.backend == "neuron" and str(settings.compiled_artifacts).startswith("s3://"):  # which may have the small files
        model_path = new_snapshot(model_path, environ)
    settings = settings.model_copy(update={"model_path": model_path})
    # With backend ray it is an option of the replicas, which `ray-deploy` takes from the same configuration.
    if settings.quantization != "none" and settings.backend not in ("torch", "ray"):
        raise ConfigError(
            f"quantization is {settings.quantization} ({origin('quantization')}), but only backend torch quantizes; set "
            f"quantization to none for backend {settings.backend}."
        )
    _check_neuron(settings, origin, shape)
    known = [entry.partition(":")[0] for entry in settings.users or ()]
    if unknown := next((name for name in settings.admins or () if name not in known), None):
        raise ConfigError(f"admins has {unknown!r} ({origin('admins')}), who is not in users; use admin_key without users.")
    return settings


def load_settings_and_log(argv: Sequence[str] | None = None, program: str | None = None) -> Settings:
    """As load_settings, and sets up the log as the settings say. Lines of before are kept until then."""
    set_up_logging()
    settings = load_settings(argv, program=program)
    set_up_logging(settings.log_format)
    return settings


def _check_meant_for_neuron(
    command: str, values: Mapping[str, Any], origin: Callable[[str], str], shape: ModelShape | None
) -> None:
    """Raises ConfigError for a configuration of another backend, whose options would break Neuron's rules by accident."""
    backend, device = values.get("backend"), values.get("device", "auto")
    if backend in ("neuron", "vllm"):
        return
    if backend is not None:
        found = f"but backend is {backend} ({origin('backend')})"
    elif device != "auto":
        found = f"but device is {device} ({origin('device')})"
    elif shape is None and not {"model_path", "instance_type", "tensor_parallel_size"} & set(values):
        found = "and neither backend nor model_path is given"
    else:
        return
    raise ConfigError(f"{command} is for Neuron, {found}; name a configuration for Neuron, such as --config {_EXAMPLE}.")


def _check_neuron(settings: Settings, origin: Callable[[str], str], shape: ModelShape | None) -> None:
    """Raises ConfigError for a rule of Neuron that would otherwise fail after an hour of compilation.

    The rules of the model need its config.json and no weights. Without the file, the name of the folder may tell the size.
    """
    if settings.backend not in ("neuron", "vllm"):
        return
    file = settings.model_path / "config.json"
    if shape is None and os.path.isfile(file):  # noqa: PTH113 - unlike Path.is_file it is false in a folder without permission
        shape = read_shape(file)
    elif shape is None:
        shape = published_by_name(checkpoint_name(settings.model_path))
    problem = first_problem(settings.neuron, shape)
    if problem is not None:
        value = getattr(settings.neuron, problem.key, None) or getattr(settings, problem.key)
        raise ConfigError(
            f"{problem.key} is {_as_yaml(value)} ({origin(problem.key)}), but {problem.rule}; {_as_yaml(problem.works)} works."
        )


def _as_yaml(value: Any) -> str:
    """The value as YAML would write it."""
    value = value.model_dump() if isinstance(value, OnDeviceSampling) else value
    value = list(value) if isinstance(value, tuple) else value
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper()


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else "--help lists all options."


def _read_yaml(path: Path, named_by: str) -> dict[str, Any]:
    file = f"The configuration file {path}"
    content = parse_mapping(read_file(path, f"{file} (named by {named_by})"), file, "of option to value", may_be_empty=True)
    for key in content:
        if key in NOT_OPTIONS:
            raise ConfigError(f"The configuration file {path} has the key {key}, which is no option: {NOT_OPTIONS[key]}.")
        if key not in Settings.model_fields:
            hint = _hint(str(key), list(Settings.model_fields))
            raise ConfigError(f"The configuration file {path} has an unknown key {key!r}: {hint}")
    return content


def _read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    variables = {_variable(name): name for name in Settings.model_fields}
    for key in environ:  # warns of a near miss only: a Kubernetes service of this name sets a dozen variables of its own
        if key not in variables and key != CONFIG_VARIABLE and (close := difflib.get_close_matches(key, variables, 1, 0.92)):
            logging.getLogger(__name__).warning("The environment variable %s is no option; did you mean %s?", key, close[0])
    found = {name: environ[key] for key, name in variables.items() if environ.get(key)}
    if _SERVICE_ADDRESS.match(found.get("port", "")):
        logging.getLogger(__name__).warning(
            "The environment variable %s is ignored: %s is the address of a Kubernetes service. enableServiceLinks: false in the "
            "pod's specification leaves it out.",
            _variable("port"),
            found.pop("port"),
        )
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"The command line cannot be used: {message}; see --help.")


def _parser(program: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        description="A value comes from the command line, else the [VARIABLE], else the YAML file, else Gradio's variable "
        f"({', '.join(GRADIO_VARIABLES.values())}), else it is the default.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=6),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mllama_demo {__version__}")
    parser.add_argument("--config", metavar="FILE", help=f"YAML file with any of the options below. [{CONFIG_VARIABLE}]")
    groups: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        title = group(name)
        groups[title] = groups.get(title) or parser.add_argument_group(title)
        text = f"{field.description} Takes {allowed_values(name)}. Default: {_default(name)}. [{_variable(name)}]"
        groups[title].add_argument(
            _flag(name),
            metavar="true|false" if field.annotation is bool else name.split("_")[-1].upper(),
            **({"nargs": "?", "const": "true"} if field.annotation is bool else {}),
            help=text.replace("%", "%%"),
        )
    return parser


def _default(name: str) -> str:
    """The default in words. A folder of the program has a name instead of its path on this machine."""
    default = Settings.model_fields[name].default
    words = {None: "not set", "": "empty", EMBEDDED_CHECKPOINT: "the embedded checkpoint", SCENARIOS: "the shipped scenarios"}
    return _as_yaml(default) if isinstance(default, OnDeviceSampling) else _as_yaml(words.get(default, default))


def _read_flags(argv: Sequence[str] | None, program: str | None) -> dict[str, str]:
    values, unknown = _parser(program).parse_known_args(argv)
    if unknown:
        word = unknown[0].split("=")[0]
        if (key := word.removeprefix("--").replace("-", "_")) in NOT_OPTIONS:
            raise ConfigError(f"The command line has {word}, which is no option: {NOT_OPTIONS[key]}.")
        hint = _hint(word, ["--config", *map(_flag, Settings.model_fields)])
        raise ConfigError(f"The command line has an unknown {'option' if word.startswith('-') else 'argument'} {word!r}: {hint}")
    return vars(values)
