"""The files that run the demo on an instance: the services of systemd and the pod. Options, paths and ports in them are those of
the program. systemd-analyze, where it is installed, and kubernetes-validate check the rest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from mllama_demo.config.loader import load_settings
from mllama_demo.config.neuron import CORES
from mllama_demo.config.settings import DEFAULT_PORT
from mllama_demo.engine.neuron.runtime_errors import STATUSES
from tests.support.deployments import DEPLOY, check_variables, unit_values
from tests.support.paths import ROOT

UNITS = sorted((DEPLOY / "systemd").glob("mllama-demo*"))
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "mllama-demo.yaml").read_text(encoding="utf-8")))
OPERATIONS = (ROOT / "docs" / "neuron-operations.md").read_text(encoding="utf-8")


def manifest(kind: str) -> dict[str, Any]:
    [found] = [one for one in MANIFESTS if one["kind"] == kind]
    return found


# --- systemd -------------------------------------------------------------------------------------------------------------


def test_the_service_starts_the_program_with_options_that_it_takes() -> None:
    values = unit_values(DEPLOY / "systemd" / "mllama-demo.service")
    program, script, *options = shlex.split(values["ExecStart"][0])
    assert (Path(program).name, script) == ("python", "app.py")
    settings = load_settings([*options, "--config", str(ROOT / options[options.index("--config") + 1])], {})
    assert settings.log_format == "json"
    check_variables([value.partition("=")[0] for value in values["Environment"]])
    assert int(values["TimeoutStopSec"][0]) >= settings.drain_time_limit_s + 15
    assert values["RestartPreventExitStatus"] == ["2"]


def test_the_idle_service_runs_the_script_of_this_repository() -> None:
    [condition] = unit_values(DEPLOY / "systemd" / "mllama-demo-idle.service")["ExecCondition"]
    path, seconds = condition.split()
    assert (ROOT / Path(path).relative_to("/opt/mllama-demo")).is_file()
    assert int(seconds) == 3600


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # the programs are those of an instance
        text = re.sub(r"^(Exec\w+=)/opt/\S+", r"\1/bin/true", unit.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def metrics() -> Iterator[list[str]]:
    """The address of a server and, after it, the lines that it serves as /metrics."""
    lines: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "\n".join(lines[1:]).encode()
            self.send_response(200 if lines[1:] else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines.append(f"http://127.0.0.1:{server.server_port}/metrics")
    yield lines
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    ("served", "code"),
    [
        (["# HELP mllama_demo_idle_seconds 99999", 'mllama_demo_idle_seconds{model_name="m"} 3601.0'], 0),
        (['mllama_demo_idle_seconds{model_name="m"} 1.2e+04'], 0),
        (['mllama_demo_idle_seconds{model_name="My model 3.2"} 4000'], 0),
        (['mllama_demo_idle_seconds{model_name="9999 models"} 20'], 1),
        (['mllama_demo_idle_seconds{model_name="m"} 3600.0'], 1),
        (['mllama_demo_idle_seconds{model_name="m"} 0.0'], 1),
        (['mllama_demo_ready{model_name="m"} 1.0'], 1),
        ([], 1),
    ],
    ids=[
        "idle",
        "idle for long",
        "a name with spaces, idle",
        "a name with spaces, in use",
        "not yet",
        "in use",
        "without the metric",
        "without an answer",
    ],
)
def test_an_instance_is_stopped_only_when_the_demo_says_that_it_is_idle(metrics: list[str], served: list[str], code: int) -> None:
    metrics += served
    script = DEPLOY / "systemd" / "is-idle.sh"
    assert os.access(script, os.X_OK)
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run([script, "3600", metrics[0]], capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.returncode == code, done.stderr


def test_a_demo_that_does_not_listen_is_not_stopped() -> None:
    done = subprocess.run(
        [DEPLOY / "systemd" / "is-idle.sh", "1", "http://127.0.0.1:1/metrics"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1


# --- Kubernetes ----------------------------------------------------------------------------------------------------------


def test_the_pod_starts_the_program_with_options_that_it_takes() -> None:
    [container] = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    secret = re.search(r"kubectl create secret generic (\S+) .*?\n.*?\n", OPERATIONS)
    assert secret is not None
    assert container["envFrom"][0]["secretRef"]["name"] == secret[1]
    variables = re.findall(r"--from-literal=(\w+)=", secret[0])
    assert len(variables) == 2
    check_variables(variables)
    options = [str(ROOT / option) if option.startswith("configs/") else option for option in container["args"]]
    settings = load_settings(options, {})
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert any(settings.model_path.is_relative_to(mount) for mount in mounts)
    assert {"/data", "/artifacts"} <= mounts  # the volumes of the image
    assert [port["containerPort"] for port in container["ports"]] == [DEFAULT_PORT]
    limits = container["resources"]["limits"]
    assert 2 * limits["aws.amazon.com/neuron"] == settings.tensor_parallel_size == CORES[settings.instance_type]
    pod = manifest("Deployment")["spec"]["template"]
    assert pod["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"] == settings.instance_type
    assert pod["spec"]["terminationGracePeriodSeconds"] >= settings.drain_time_limit_s + 15


def test_the_parts_of_the_deployment_belong_together() -> None:
    deployment, service = manifest("Deployment")["spec"], manifest("Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == service["selector"]
    [container] = deployment["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {service["ports"][0]["targetPort"], container["readinessProbe"]["httpGet"]["port"]} == ports
    claims = [volume for volume in deployment["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert claims[0]["persistentVolumeClaim"]["claimName"] == manifest("PersistentVolumeClaim")["metadata"]["name"]
    assert not [one for one in MANIFESTS if one["kind"] == "Secret"], "a key in a file would be everybody's"
    # One pod at a time has the devices and the volume.
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")


@pytest.mark.parametrize("name", ["mllama-demo", "ray"])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not in the environment of the Neuron SDK"
    )
    for one in yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text(encoding="utf-8")):
        templates = [one]
        if one["kind"] == "RayCluster":  # its pods are described as any other
            groups = [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]
            templates = [
                {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]} for group in groups
            ]
        for template in templates:
            kubernetes.validate(template, kubernetes.latest_version(), strict=True)


# --- documentation -------------------------------------------------------------------------------------------------------


def test_the_codes_in_the_documentation_are_those_of_the_runtime() -> None:
    documented = {(name, int(code)) for name, code in re.findall(r"`(NRT_\w+)` \((\d+)\)", OPERATIONS)}
    assert len(documented) >= 8
    assert documented <= {(status.name, status.code) for status in STATUSES}
