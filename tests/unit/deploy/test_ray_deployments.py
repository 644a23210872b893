"""The files that run replicas on a Ray cluster: configurations, services of systemd and manifests of KubeRay belong together."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from mllama_demo.backends.ray import scale_of
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import DEFAULT_PORT, Settings
from mllama_demo.engine.ray.scale import Scale, check_room
from mllama_demo.errors import ConfigError
from tests.support.deployments import DEPLOY, check_variables, unit_values
from tests.support.paths import ROOT

MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "ray.yaml").read_text(encoding="utf-8")))
TRN1 = {"CPU": 128.0, "neuron_cores": 32.0}
SINGLE = ("ray_replicas", "ray_replica_cpus", "max_waiting")  # what a configuration of one instance does not have


def settings_of(options: list[str], backend: str | None = None) -> Settings:
    """The settings of a command line with a file of this repository."""
    options = [str(ROOT / option) if option.startswith("configs/") else option for option in options]
    return load_settings([*options, *(["--backend", backend] if backend else [])], {})


@pytest.mark.parametrize("machines", [2, 8])
def test_a_configuration_fills_its_machines_with_what_is_compiled_for_one(machines: int) -> None:
    settings = settings_of(["--config", f"configs/ray-{machines}-trn1-90b.yaml"])
    scale = scale_of(settings)
    check_room(scale, [TRN1] * machines)
    with pytest.raises(ConfigError, match=f"has room for {machines - 1} of {machines} replicas"):
        check_room(scale, [TRN1] * (machines - 1))
    single = settings_of(["--config", "configs/trn1-90b.yaml"])
    assert settings.model_copy(update={name: getattr(single, name) for name in SINGLE}) == single
    web = settings_of(["--config", f"configs/ray-{machines}-trn1-90b.yaml"], backend="ray")
    assert web.model_path == settings.model_path


def test_the_settings_say_how_replicas_are_scaled() -> None:
    delays: dict[str, Any] = {"ray_upscale_delay_s": 5.0, "ray_downscale_delay_s": 60.0}
    settings = Settings(ray_replicas=2, ray_max_replicas=4, ray_replica_cpus=0.5, ray_replica_gpus=1.0, **delays)
    assert scale_of(settings) == Scale(2, 4, 0.5, 1.0, 0, upscale_delay_s=5.0, downscale_delay_s=60.0)
    with pytest.raises(ConfigError, match="ray_max_replicas must be at least ray_replicas, 2, got 1"):
        scale_of(settings.model_copy(update={"ray_max_replicas": 1}))


def test_room_is_counted_by_machine() -> None:
    check_room(Scale(4, cpus=2), [{"CPU": 5}, {"CPU": 4}])
    check_room(Scale(3, cpus=0), [])
    with pytest.raises(ConfigError, match="room for 4 of 5 replicas: each needs 2 CPUs of one machine, and 2 machines together"):
        check_room(Scale(5, cpus=2), [{"CPU": 5}, {"CPU": 5}])
    with pytest.raises(
        ConfigError, match="each needs 1 CPUs and 32 NeuronCores of one machine, and 1 machine together have 8 CPUs"
    ):
        check_room(Scale(1, neuron_cores=32), [{"CPU": 8}])


def test_the_services_start_the_program_with_options_that_it_takes() -> None:
    ray, web = (unit_values(DEPLOY / "systemd" / f"mllama-demo-{name}.service") for name in ("ray", "web"))
    program, script, *options = shlex.split(web["ExecStart"][0])
    assert (Path(program).name, script) == ("python", "app.py")
    settings = settings_of(options)
    assert settings.backend == "ray"
    check_variables(value.partition("=")[0] for value in web["Environment"])
    assert int(web["TimeoutStopSec"][0]) >= settings.drain_time_limit_s + 15
    [drain_s] = [value.partition("=")[2] for value in ray["Environment"] if "DRAIN_TIMEOUT" in value]
    assert settings.request_time_limit_s <= int(drain_s) <= int(ray["TimeoutStopSec"][0]) - 30
    assert ray["KillMode"] == ["mixed"], "a signal to the replicas would end their answers"
    assert set(ray["EnvironmentFile"]) <= set(web["EnvironmentFile"]), "both have the token of the cluster"
    assert web["Requires"] == web["After"] == ["mllama-demo-ray.service"]
    assert ray["User"] == web["User"]


def manifest(kind: str) -> dict[str, Any]:
    [found] = [one for one in MANIFESTS if one["kind"] == kind]
    return found


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """The variables of a container: values, or what they are taken from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def image_variables() -> dict[str, str]:
    """The options that the Neuron image sets."""
    text = (DEPLOY / "container" / "Dockerfile").read_text(encoding="utf-8")
    return dict(re.findall(r"\b(MLLAMA_DEMO_\w+)=(\S+)", text))


def pod_specs() -> dict[str, dict[str, Any]]:
    cluster = manifest("RayCluster")["spec"]
    [workers] = cluster["workerGroupSpecs"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "workers": workers["template"]["spec"],
        "deploy": manifest("Job")["spec"]["template"]["spec"],
        "web": manifest("Deployment")["spec"]["template"]["spec"],
    }


def test_the_pods_run_the_program_with_options_that_it_takes() -> None:
    head = f"{manifest('RayCluster')['metadata']['name']}-head-svc:6379"  # the service that KubeRay makes
    specs = pod_specs()
    lines = {
        name: [*specs[name]["containers"][0]["command"], *specs[name]["containers"][0]["args"]] for name in ("deploy", "web")
    }
    lines["deploy"] = ["s3://a-bucket/a-folder" if word == "s3://BUCKET/FOLDER" else word for word in lines["deploy"]]
    assert lines["deploy"][:6] == ["deploy/container/on-ray.sh", head, "python", "-m", "mllama_demo", "ray-deploy"]
    assert lines["web"][:4] == ["deploy/container/on-ray.sh", head, "python", "app.py"]
    replica, web = settings_of(lines["deploy"][6:]), settings_of(lines["web"][4:])
    assert (replica.ray_address, web.ray_address, web.backend) == (head, head, "ray")
    assert (replica.model_path, replica.ray_application) == (web.model_path, web.ray_application)
    scale = scale_of(replica)
    cluster = manifest("RayCluster")["spec"]
    assert f"ray[serve]=={cluster['rayVersion']}" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    [group] = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (scale.replicas, scale.replicas)
    [worker] = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["aws.amazon.com/neuroncore"] == scale.neuron_cores
    assert int(worker["resources"]["requests"]["cpu"]) >= scale.cpus
    drain_s = int(variables(worker)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert replica.request_time_limit_s <= drain_s <= group["template"]["spec"]["terminationGracePeriodSeconds"] - 30
    assert specs["web"]["terminationGracePeriodSeconds"] >= web.drain_time_limit_s + 15
    # The program takes what is on its command line before what the image sets, and that before the configuration.
    with_image = load_settings(
        [str(ROOT / option) if option.startswith("configs/") else option for option in lines["deploy"][6:]], image_variables()
    )
    assert str(with_image.compiled_artifacts).startswith("s3://"), "no volume is mounted where the image has compiled models"
    for name in ("workers", "deploy", "web"):
        assert any(
            replica.model_path.is_relative_to(mount["mountPath"]) for mount in specs[name]["containers"][0]["volumeMounts"]
        )


def test_the_parts_of_the_deployment_belong_together() -> None:
    specs = pod_specs()
    auth = manifest("RayCluster")["spec"]["authOptions"]
    assert auth["mode"] == "token"
    for name, spec in specs.items():
        [container] = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        # KubeRay gives it to the cluster's own containers, and copies no envFrom to those that it adds.
        token = {"secretKeyRef": {"name": auth["secretName"], "key": "auth_token"}}
        given = {"RAY_AUTH_MODE": auth["mode"], "RAY_AUTH_TOKEN": token} if name in ("deploy", "web") else {}
        assert {key: value for key, value in variables(container).items() if key.startswith("RAY_AUTH")} == given
        claims = [volume["persistentVolumeClaim"] for volume in spec.get("volumes", []) if "persistentVolumeClaim" in volume]
        assert all(claim == {"claimName": manifest("PersistentVolumeClaim")["metadata"]["name"]} for claim in claims)
    deployment, service = manifest("Deployment")["spec"], manifest("Service")["spec"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"] == service["selector"]
    [web] = specs["web"]["containers"]
    assert [port["containerPort"] for port in web["ports"]] == [DEFAULT_PORT]
    assert {service["ports"][0]["targetPort"], web["readinessProbe"]["httpGet"]["port"]} == {web["ports"][0]["name"]}
    assert deployment["replicas"] >= 2
    # Who reaches the cluster can read what its machines know: the keys and the database are for the web processes alone.
    given = {name: spec["containers"][0].get("envFrom", []) for name, spec in specs.items()}
    assert {name: refs for name, refs in given.items() if refs} == {"web": [{"secretRef": {"name": "mllama-demo"}}]}
    assert not [one for one in MANIFESTS if one["kind"] == "Secret"], "a key in a file would be everybody's"


def test_the_documentation_makes_the_secrets() -> None:
    text = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    assert set(re.findall(r"kubectl create secret generic (\S+)", text)) == {"mllama-demo", "mllama-demo-ray"}
    keys = set(re.findall(r"--from-literal=(\w+)=", text))
    assert {"auth_token", "MLLAMA_DEMO_DATABASE_URL"} <= keys
    check_variables(keys)
