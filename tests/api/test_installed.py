"""The program as a wheel that is installed outside the checkout: everything that it needs at run time travels in the wheel."""

from __future__ import annotations

import base64
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mllama_demo import __version__
from tests.support.paths import ROOT
from tests.support.program import clean_environment, running, visitor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run(build, check=True, timeout=120)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script in a virtual environment that has the wheel and, by a path, the packages of this environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, timeout=120)
    site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder), "platbase": str(folder)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "mllama-demo"


def test_the_wheel_has_every_file_of_the_package(wheel: Path):
    package = ROOT / "mllama_demo"
    files = {
        file.relative_to(ROOT).as_posix() for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert files <= packed
    assert {name.split("/")[0] for name in packed} == {"mllama_demo", f"mllama_demo-{__version__}.dist-info"}


def test_the_installed_program_answers_a_question_about_an_image(installed: Path, tmp_path: Path):
    example = next((ROOT / "mllama_demo" / "images" / "example_images").glob("*.png"))
    url = "data:image/png;base64," + base64.b64encode(example.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What do you see?"}]
    body = {"model": "embedded", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0}
    with running(tmp_path / "home", program=[installed, "serve"]) as server, visitor() as session:
        server.wait_ready()
        answer = session.post(server.url + "/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        for path in ("/", "/present", "/explore"):
            assert session.get(server.url + path, timeout=60).status_code == 200


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path):
    code = "import mllama_demo; print(mllama_demo.__file__)"
    line = [str(installed.with_name("python")), "-c", code]
    done = subprocess.run(
        line, cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True, check=True, timeout=60
    )
    assert Path(done.stdout.strip()).is_relative_to(installed.parents[1])
