"""The verbs: found by name, loaded when used, and failing with one sentence."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mllama_demo import __main__ as program
from mllama_demo import __version__
from mllama_demo.__main__ import VERBS, Verb, main
from mllama_demo.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "gradio", "fastapi", "pydantic", "yaml", "tokenizers", "numpy")


def echo(argv: Sequence[str]) -> int:
    print(*argv)
    return 7


def refuse(argv: Sequence[str]) -> int:
    raise ConfigError("It cannot be done.")


def interrupt(argv: Sequence[str]) -> int:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    for function in (echo, refuse, interrupt):
        monkeypatch.setitem(VERBS, function.__name__, Verb("For a test.", f"{__name__}:{function.__name__}"))


def test_a_verb_gets_the_arguments_after_it_and_gives_the_exit_code(capsys):
    assert main(["echo", "--a", "b", "--help"]) == 7
    assert capsys.readouterr().out == "--a b --help\n"


def test_an_expected_failure_is_one_sentence_on_stderr_and_exit_code_2(capsys):
    assert main(["refuse"]) == 2
    assert capsys.readouterr() == ("", "mllama-demo: It cannot be done.\n")


def test_an_interruption_is_no_traceback(capsys):
    assert main(["interrupt"]) == 2
    assert capsys.readouterr().err == "mllama-demo: Interrupted.\n"


@pytest.mark.parametrize(("word", "hint"), [("covnert", "did you mean convert?"), ("xyz", "there are serve, offline, explore")])
def test_an_unknown_verb_suggests_the_closest(word, hint, capsys):
    assert main([word]) == 2
    assert f"{word!r} is nothing this program does: {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and verb.help in out for name, verb in VERBS.items())


def test_without_a_verb_the_help_goes_to_stderr(capsys):
    assert main([]) == 2
    assert "usage: python -m mllama_demo" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mllama_demo {__version__}\n"


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_has_help_of_its_own(name, capsys):
    module, _, function = VERBS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with contextlib.suppress(SystemExit):
        assert main([name, "--help"]) == 0
    assert f"usage: python -m mllama_demo {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "light"),
    [
        (["--help"], HEAVY),
        (["explore", "--help"], ("torch", "transformers", "gradio", "sqlalchemy", "jinja2")),
        (["convert", "--help"], ("torch", "transformers", "gradio")),
        (["compile", "--help"], ("torch", "transformers", "gradio")),
        (["offline", "--help"], ("torch", "transformers", "gradio", "openai", "requests", "tqdm")),
    ],
)
def test_help_imports_nothing_heavy(argv, light):
    code = f"""
import json, sys
from {program.__name__.removesuffix(".__main__")}.__main__ import main
try:
    main({argv!r})
except SystemExit:
    pass
print("\\n" + json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert not {*light} & {*json.loads(done.stdout.splitlines()[-1])}


def test_serve_takes_the_options_of_the_demo(capsys):
    assert main(["serve", "--prot=1"]) == 2
    assert "did you mean --port?" in capsys.readouterr().err
