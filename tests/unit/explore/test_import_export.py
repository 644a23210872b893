"""Runs as JSON and CSV files, snippets, and the command `explore` with a saved run."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllama_demo.cli import main
from mllama_demo.config.settings import Settings
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.errors import BadRequest, ImageError
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.import_export import MAX_IMPORT_CHARACTERS, TOKEN_BYTES, from_json, max_import_bytes, to_csv, to_json
from mllama_demo.explore.results import Run, Token
from mllama_demo.explore.snippets import image_file, snippets
from mllama_demo.images.loading import ImageLimits
from mllama_demo.sampling import SamplingParams
from tests.support.explore_runs import HOSTILE_TEXT, failed_cell, hostile_run, make_image, make_run
from tests.support.samplers import sample

# --- JSON ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run", [make_run(), hostile_run(system_prompt="Be brief."), make_run(make_grid({"prompt": "No picture"}))]
)
def test_an_exported_run_is_imported_unchanged(run: Run) -> None:
    assert from_json(to_json(run)) == run
    assert from_json(to_json(run).encode()) == run


def test_failed_cells_survive_export_and_import() -> None:
    run = make_run()
    cells = (failed_cell(run.cells[0]), *run.cells[1:])
    again = from_json(to_json(run.model_copy(update={"cells": cells})))
    assert (again.cells[0].outcome, again.cells[0].error, again.failed_count) == ("error", "It broke.", 1)


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(to_json(make_run()))
    change(document)
    return json.dumps(document)


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Returns a change that sets a value. path: keys, then the value."""
    *place, last, value = path

    def change(document: Any) -> None:
        for key in place:
            document = document[key]
        document[last] = value

    return change


TRACE = ("cells", 0, "tokens", 0, "trace")
CORRUPTIONS = [
    (put("format", "another program"), "format"),
    (put("version", 4), "version"),
    (put("id", "../../etc"), "id"),
    (put("created", "yesterday"), "created"),
    (put("created", "2026-01-01T00:00:00"), "created"),
    (put("surprise", 1), "surprise"),
    (put("model", 5), "model"),
    (put("grid", "temperature", [9]), "temperature must be"),
    (put("grid", "seed", [1, 3]), "not what the grid has there"),
    (put("cells", 0, "tokens", 0, "candidates", ["a"]), "one text for each"),
    (lambda d: d["cells"].pop(), "the run 7"),
    (put("cells", 0, "outcome", "won"), "cells.0.outcome"),
    (put("cells", 0, "text", "Other"), "texts of the tokens"),
    (put("cells", 0, "seed", "1"), "cells.0.seed"),
    (put("cells", 0, "timings", "total_s", "long"), "timings.total_s"),
    (put(*TRACE, "draw", 1.5), "draw"),
    (put(*TRACE, "log_mass", -1e9), "log_mass"),
    (put(*TRACE, "logits", [1.0]), "as many logits"),
    (put(*TRACE, "token_ids", []), "token_ids"),
    (put(*TRACE, "token_ids", ["1"] * 64), "token_ids"),
    (put(*TRACE, "logits", 0, float("nan")), "logits"),
    (put(*TRACE, "logits", 0, float("inf")), "logits"),
    (put(*TRACE, "whole", "size", 3), "whole vocabulary"),
    (put(*TRACE, "after_top_p", 0), "after_top_p"),
    (put("image", "digest", "short"), "digest"),
    (put("image", "data", "not base64!"), "base64"),
    (put("image", "format", "exe"), "format"),
    (put("image", "format", "JPEG"), "not the one that the run tells of"),
    (put("image", "width", 41), "not the one that the run tells of"),
    (put("image", "data", base64.b64encode(make_image("red").data).decode()), "not the one that the run tells of"),
    (put("image", "data", base64.b64encode(b"MZ").decode()), "not an image"),
    (lambda d: d.clear(), "grid"),
]


@pytest.mark.parametrize(("change", "named"), CORRUPTIONS, ids=[named for _, named in CORRUPTIONS])
def test_a_corrupted_run_is_refused_and_the_message_names_the_field(change: Callable[..., Any], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        from_json(changed(change))
    assert named in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"a": ' * 50_000, "é"], ids=lambda data: repr(data[:8])
)
def test_a_file_without_a_run_is_refused(data: Any) -> None:
    with pytest.raises(BadRequest, match="run"):
        from_json(data)


def test_an_empty_image_raises_image_error() -> None:
    with pytest.raises(ImageError):
        from_json(changed(put("image", "data", "")))


def test_the_import_limit_fits_the_largest_possible_run() -> None:
    """Measured with the vocabulary size of Llama 3.2, 128,256 tokens."""
    sampler = TokenSampler(SamplingParams(temperature=1.7, top_p=0.99, top_k=150, seed=1), trace=True)
    rng = np.random.default_rng(1)
    drawn = [sample(sampler, rng.normal(-20, 8, 128_256).astype(np.float32)) for _ in range(20)]
    sizes = [len(Token(id=id, text=" unbelievable", trace=trace).model_dump_json()) + 1 for id, trace in drawn]
    assert max(sizes) <= TOKEN_BYTES
    assert 1.2 * max(sizes) > TOKEN_BYTES
    limits = ImageLimits(max_bytes=1024)
    assert max_import_bytes(limits) - max_import_bytes(ImageLimits(max_bytes=1021)) == 4
    with pytest.raises(BadRequest, match=r"too large .* at most 73 MiB are"):
        from_json(b" " * (max_import_bytes(limits) + 1), limits)


# --- CSV -----------------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_for_each_cell_with_values_and_measures() -> None:
    run = make_run()
    rows = list(csv.DictReader(io.StringIO(to_csv(run))))
    assert [(float(r["temperature"]), float(r["top_p"]), int(r["seed"])) for r in rows] == [
        (c.temperature, c.top_p, c.seed) for c in run.cells
    ]
    assert [r["text"] for r in rows] == [c.text for c in run.cells]
    assert {r["tokens"] for r in rows} == {"6"}
    assert all(float(r["entropy"]) > 0 for r in rows)


def test_csv_escapes_text_that_a_spreadsheet_would_run_as_a_formula() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv(hostile_run())))
    assert row["text"] == "'=cmd() <img src=x onerror=y>"


# --- snippets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of an API that answers every request with "Hi.", and the list of received bodies."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
            reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(
    "run", [hostile_run(system_prompt="$(rm) 'x'"), make_run(make_grid({"prompt": HOSTILE_TEXT}))], ids=["picture", "text"]
)
@pytest.mark.parametrize("title", ["curl", "openai client"])
def test_a_snippet_sends_exactly_the_request_of_its_cell(run: Run, title: str, listener, tmp_path: Path, monkeypatch) -> None:
    url, bodies = listener
    (snippet,) = [s for s in snippets(run, 0, url) if s.title == title]
    if run.image is not None:
        (tmp_path / str(image_file(run))).write_bytes(run.image.data)
    if snippet.language == "sh":
        subprocess.run(["bash", "-eu", "-c", snippet.code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    else:
        monkeypatch.chdir(tmp_path)
        exec(compile(snippet.code, "snippet", "exec"), {})
    (body,) = bodies
    values = run.grid.cells()[0]
    for name in ("temperature", "top_p", "top_k", "max_tokens", "seed"):
        assert body[name] == getattr(values, name)
    assert body.get("stop", []) == list(values.stop)
    *system, user = body["messages"]
    assert [m["content"] for m in system] == ([run.system_prompt] if run.system_prompt else [])
    if run.image is None:
        assert user["content"] == HOSTILE_TEXT
    else:
        text, image = user["content"]
        assert text["text"] == HOSTILE_TEXT
        head, _, data = image["image_url"]["url"].partition(",")
        assert (head, base64.b64decode(data)) == ("data:image/png;base64", run.image.data)


def test_the_offline_snippet_is_a_batch_of_one_line(tmp_path: Path) -> None:
    batch = pytest.importorskip("mllama_demo.offline.batch")
    run = hostile_run()
    (snippet,) = [s for s in snippets(run, 0) if s.title == "offline"]
    code = re.sub(r"^python .*", "", snippet.code, flags=re.MULTILINE)
    subprocess.run(["bash", "-eu", "-c", code], cwd=tmp_path, check=True, timeout=60)
    (question,) = batch.read_batch(tmp_path / "cell.jsonl", Settings().sampling).lines
    assert (question.prompt, question.image, question.sampling) == (HOSTILE_TEXT, image_file(run), run.grid.cells()[0])


def test_snippets_have_no_seed_when_the_backend_ignores_seeds() -> None:
    run = make_run().model_copy(update={"repeatable": False})
    assert not any("seed" in snippet.code for snippet in snippets(run, 0))


# --- the command, on a run that is there ------------------------------------------------------------------------------------


def test_explore_run_prints_a_saved_run_and_converts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    (tmp_path / "run.json").write_text(to_json(run), encoding="utf-8")
    files = [f"--{kind}={tmp_path / f'out.{kind}'}" for kind in ("html", "csv")]
    assert main(["explore", "--run", str(tmp_path / "run.json"), *files]) == 0
    shown = capsys.readouterr().out
    assert "self-similarity" in shown
    assert run.cells[3].text[:30] in shown
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\n") == 9
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_explore_refuses_a_wrong_command_line_before_anything_takes_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, named in (
        ([], "--spec"),
        (["--spec", "a", "--run", "b"], "give one of them"),
        (["--run", str(tmp_path / "none.json")], "cannot be read"),
        (["--run", "x", "--port", "1"], "--port"),
        (["--spec", "x", "--html", str(tmp_path / "no" / "a.html")], "no such folder"),
        (["--spec", "x", "--csv", str(tmp_path)], "it is a folder"),
        (["--spec", str(tmp_path / "none.yaml")], "none.yaml cannot be read"),
        (["--spec", "x", "--tempreature", "1"], "did you mean --temperature"),
    ):
        assert main(["explore", *arguments]) == 2
        assert named in capsys.readouterr().err


def test_a_snippet_has_the_conversation_before_the_prompt_with_the_image_at_its_message() -> None:
    history = [{"role": "user", "text": "See @IMAGE@?", "image": True}, {"role": "assistant", "text": "'url': '@IMAGE@@'"}]
    run = make_run(make_grid({"prompt": "And now?", "history": history, "max_tokens": 4}), make_image())
    by_title = {snippet.title: snippet.code for snippet in snippets(run, 0)}
    assert set(by_title) == {"curl", "openai client"}, "a file of prompts has no conversations"
    code = by_title["openai client"]
    messages = eval(code.split("messages=")[1].split(",\n    temperature")[0], {"image": "DATA"})
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"][1]["image_url"]["url"] == "data:image/png;base64,DATA"
    assert messages[0]["content"][0]["text"] == "See @IMAGE@?"
    assert messages[1:] == [{"role": "assistant", "content": history[1]["text"]}, {"role": "user", "content": "And now?"}]


def test_a_run_whose_answers_are_a_library_is_refused() -> None:
    """To show it would take the program minutes."""
    run = make_run()
    first = run.cells[0].model_copy(update={"text": run.cells[0].text + "![" * MAX_IMPORT_CHARACTERS})
    library = run.model_copy(update={"cells": (first, *run.cells[1:])})
    with pytest.raises(BadRequest, match="at most 1,000,000 are allowed"):
        from_json(to_json(library))
