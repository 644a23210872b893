# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
"""Each work-around for Gradio says why it exists, and is still needed: these tests fail without it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio.components.chatbot import ComponentMessage

from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.ui.gradio_patches import asset_files, environment, live_answer, run_history, signed_in_user
from mllama_demo.ui.gradio_patches.image_messages import image_message
from mllama_demo.ui.theme import CSS, HEAD, PAGE_SCRIPT
from mllama_demo.web.auth import login
from tests.support.paths import ROOT

FOLDER = ROOT / "mllama_demo" / "ui" / "gradio_patches"
PATCHES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".py", ".js", ".css") and path.stem != "__init__")
REPORTS = re.compile(r"no upstream report known|https://github\.com/gradio-app/gradio/(issues|pull)/\d+")

pytestmark = pytest.mark.timeout(180)


def entries(path: Path) -> dict[str, str]:
    """The head of a patch: the text of each entry, by its name."""
    head = re.sub(r"^(//|\*)? ?", "", path.read_text(encoding="utf-8").split("\n\n\n")[0], flags=re.MULTILINE)
    return {name: text.strip() for name, text in re.findall(r"^(\w+): (.*(?:\n  .*)*)", head, flags=re.MULTILINE)}


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.name)
def test_a_patch_names_versions_defect_report_and_test(path: Path) -> None:
    found = entries(path)
    assert re.fullmatch(r"\d+\.\d+\.\d+(, \d+\.\d+\.\d+)*", found["Gradio"])
    assert len(found["Defect"]) > 60
    assert REPORTS.fullmatch(found["Report"])
    file, test = re.fullmatch(r"(tests/\S+\.py)::(test_\w+)(?: \*/)?", found["Test"]).groups()
    assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE), found["Test"]


@pytest.mark.parametrize("path", [path for path in PATCHES if path.suffix != ".py"], ids=lambda path: path.name)
def test_every_script_and_style_sheet_is_on_the_page(path: Path) -> None:
    assert path.read_text(encoding="utf-8") in CSS + PAGE_SCRIPT + HEAD


# --- what Gradio still does ----------------------------------------------------------------------------------------------


def values_sent(handler: Any) -> list[Any]:
    """What Gradio sends to the browser for an event with one output, in order."""
    with gr.Blocks() as demo:
        output = gr.Textbox("before")
        demo.load(handler, None, output)
    app = gr.mount_gradio_app(FastAPI(), demo, path="/")
    with TestClient(app) as client:
        body = {"data": [], "fn_index": 0, "session_hash": "page", "event_data": None, "trigger_id": None}
        client.post("/gradio_api/queue/join", json=body).raise_for_status()
        lines = client.get("/gradio_api/queue/data", params={"session_hash": "page"}).text.splitlines()
    messages = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
    sent = [message["output"]["data"] for message in messages if message["msg"] in ("process_generating", "process_completed")]
    return [data[0] if data else None for data in sent]


def test_gradio_sends_the_last_value_of_a_generator_twice() -> None:
    async def answers() -> AsyncGenerator[str, None]:
        yield "answer"

    async def nothing() -> AsyncGenerator[str, None]:
        for text in ():
            yield text

    assert values_sent(answers) == ["answer", "answer"]
    assert values_sent(nothing) == [None], "an empty generator empties the output"


def test_an_image_message_is_sent_as_it_is_and_copies_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    chatbot = gr.Chatbot()

    def shown(image: Any) -> Any:
        return chatbot.postprocess([{"role": "user", "content": [image]}]).root[0].content[0]  # type: ignore[union-attr]

    dog = str(EXAMPLES_FOLDER / "dog.png")
    message = image_message(dog, "dog.png, 640 × 480 pixels")
    assert shown(message) == message
    assert list(tmp_path.rglob("*.*")) == []
    built = shown(gr.Image(dog, render=False))
    assert isinstance(built, ComponentMessage)
    assert list(tmp_path.rglob("*.*")) != [], "a gr.Image is copied"


def test_the_run_history_is_off_in_versions_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    has_one = gr.__version__ != "6.17.3"  # the version for the Neuron SDK
    assert run_history.without_run_history() == ({"run_history": False} if has_one else {})
    monkeypatch.setattr(gr, "mount_gradio_app", lambda app, blocks, path: app)  # as in 6.17.3
    assert run_history.without_run_history() == {}


def test_a_demo_without_sign_in_has_no_auth_dependency() -> None:
    assert signed_in_user.auth_dependency(sign_in=False) is None
    assert signed_in_user.auth_dependency(sign_in=True) is login.signed_in_user
    with gr.Blocks() as demo:
        gr.Textbox()
    app = gr.mount_gradio_app(FastAPI(), demo, path="/", auth_dependency=lambda request: None)
    with TestClient(app) as client:
        assert client.get("/config").status_code == 401, "Gradio still lets nobody in without a name"


def test_gradio_sends_no_analytics_and_has_a_cache_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    environment.import_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(folder.iterdir()) == []
    assert gr.utils.get_upload_folder() == str(folder)
    environment.import_gradio()
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder), "a folder that is set stays"


@pytest.mark.slow
def test_no_proxy_variable_stops_the_import_of_gradio(tmp_path: Path) -> None:
    """Gradio's import makes HTTP clients, and httpx refuses a scheme that it does not know."""
    variables = {"ALL_PROXY": "socks://127.0.0.1:7890", "https_proxy": "nonsense", "NO_PROXY": "kept"}
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **variables}

    def outcome(code: str) -> str:
        ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120, check=False)
        return ran.stdout + ran.stderr

    assert "Unknown scheme for proxy URL" in outcome("import gradio"), "Gradio no longer needs this"
    code = (
        "import os; from mllama_demo.ui.gradio_patches.environment import import_gradio as i; i(); print(os.environ['NO_PROXY'])"
    )
    assert outcome(code) == "kept\n"


@pytest.mark.slow
def test_a_component_writes_no_stub_beside_its_source(tmp_path: Path) -> None:
    def stubs(folder: Path, importing: str) -> list[str]:
        folder.mkdir()
        (folder / "field.py").write_text("import gradio as gr\n\n\nclass Field(gr.Textbox):\n    EVENTS = ['change']\n")
        environ = {"PATH": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "TMPDIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", f"{importing}; import field"], env=environ, timeout=120, check=True)
        return [path.name for path in folder.glob("*.pyi")]

    assert stubs(tmp_path / "without", "import gradio") == ["field.pyi"], "Gradio no longer needs this"
    patch = "from mllama_demo.ui.gradio_patches.environment import import_gradio as i; i()"
    assert stubs(tmp_path / "with", patch) == []


def test_the_live_answer_stands_directly_below_the_messages() -> None:
    """The rule that hides it while it is empty selects the neighbour of #messages."""
    assert "#messages:has(" in live_answer.CSS
    chatbot = live_answer.live_answer(height=None)
    assert chatbot.elem_id == "live-answer"


def test_assets_are_compressed_once_and_may_be_kept_by_browsers(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = []
    compress = asset_files.compress
    monkeypatch.setattr(asset_files, "compress", lambda data, encoding: compressed.append(encoding) or compress(data, encoding))
    app = FastAPI()
    app.mount("/assets", asset_files.AssetFiles())
    name = next(file.name for file in asset_files.FOLDER.iterdir() if file.suffix == ".js" and file.stat().st_size > 5000)
    font = next(file.name for file in asset_files.FOLDER.iterdir() if file.suffix == ".woff2")
    with TestClient(app) as client:
        for _ in range(2):
            response = client.get(f"/assets/{name}", headers={"Accept-Encoding": "br"})
            assert response.headers["content-encoding"] == "br"
            assert response.headers["content-type"].partition(";")[0] in ("text/javascript", "application/javascript")
            assert "immutable" in response.headers["cache-control"]
            assert response.content == (asset_files.FOLDER / name).read_bytes()
        assert compressed == ["br"]
        assert client.get(f"/assets/{name}", headers={"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"
        plain = client.get(f"/assets/{name}", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == response.content
        assert "content-encoding" not in client.get(f"/assets/{font}", headers={"Accept-Encoding": "br"}).headers
        assert client.head(f"/assets/{name}").content == b""
        assert client.get("/assets/..%2findex.html").status_code == 404
        assert client.get("/assets/nothing.js").status_code == 404
        assert client.post(f"/assets/{name}").status_code == 405


@pytest.mark.slow
def test_gradio_compresses_an_asset_for_each_request_and_sends_no_cache_control() -> None:
    with gr.Blocks() as demo:
        gr.Textbox()
    app = gr.mount_gradio_app(FastAPI(), demo, path="/")
    name = next(file.name for file in asset_files.FOLDER.iterdir() if file.suffix == ".js")
    with TestClient(app) as client:
        assert "cache-control" not in client.get(f"/assets/{name}").headers
