"""What stands in deploy/ against the commands, the settings, and itself: names there must not outlive their meaning."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from palmette.cli import main
from palmette.serving import ServerSettings

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy"
PATHS = {"/healthz", "/readyz", "/metrics"}
UNITS = {"s": 1, "m": 60}


@cache
def instructions() -> list[tuple[str, str]]:
    """The lines of the Containerfile, (name, rest); continued ones are put together."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def instruction(name: str) -> str:
    (found,) = [rest for given, rest in instructions() if given == name]
    return found


def entrypoint() -> list[str]:
    found: list[str] = json.loads(instruction("ENTRYPOINT"))
    return found


def parse(arguments: Sequence[str]) -> tuple[Mapping[str, Any], ServerSettings]:
    """The command's options, read by the command itself, and the settings that come of them."""
    command, *rest = [*entrypoint()[1:], *arguments]
    context = main.commands[command].make_context(command, rest)
    given = context.params
    options = {name: given[name] for name in ("host", "port", "keys")}
    return given, ServerSettings.read(given["overrides"], **options)


@cache
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


@cache
def kubernetes() -> dict[str, dict[str, Any]]:
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = kubernetes()["Deployment"]["spec"]["template"]["spec"]
    return found


def test_the_paths_are_those_of_the_server() -> None:
    source = (REPOSITORY / "src" / "palmette" / "serving" / "app.py").read_text()
    assert set(re.findall(r'@app\.get\("(/\w+)"|"(/metrics)"', source)) >= {("/healthz", ""), ("/readyz", "")}
    assert all(f'"{path}"' in source for path in PATHS)


def test_the_image_starts_the_server_as_nobody_and_looks_at_its_own_port() -> None:
    assert entrypoint()[0] in re.findall(r"^(\w+) = ", (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    given, settings = parse([])
    assert given["model"] == Path("/bundle")
    assert settings.host == "0.0.0.0"  # noqa: S104 - of the container
    assert settings.port == int(instruction("EXPOSE"))
    assert f"http://127.0.0.1:{settings.port}/healthz" in instruction("HEALTHCHECK")
    user, group = map(int, instruction("USER").split(":"))
    assert min(user, group) > 0
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert [re.findall(r"'\.\[(.*)\]'", rest) for rest in installs] == [["serve"]]
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and rest[0] not in "-$"]
    assert all((REPOSITORY / name).exists() for names in copied for name in names)


def test_the_compose_file_fits_the_image() -> None:
    (service,) = compose()["services"].values()
    given, settings = parse(service["command"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:")
    assert int(port.rpartition(":")[2]) == settings.port
    (volume,) = service["volumes"]
    assert (volume["target"], volume["read_only"]) == (str(given["model"]), True)
    assert str(settings.keys) in {f"/run/secrets/{name}" for name in service["secrets"]}
    assert service["secrets"] == list(compose()["secrets"])
    assert given["threads"] == int(service["deploy"]["resources"]["limits"]["cpus"])
    grace = service["stop_grace_period"]
    assert int(grace[:-1]) * UNITS[grace[-1]] > settings.drain_seconds + settings.shutdown_timeout


def test_the_manifest_fits_the_image() -> None:
    (container,) = pod()["containers"]
    given, settings = parse(container["args"])
    assert "command" not in container, "the image's"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) == {settings.port}
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"]["path"] == path
        assert container[probe]["httpGet"]["port"] in ports
    ready = container["readinessProbe"]
    assert settings.drain_seconds > ready["periodSeconds"] * ready["failureThreshold"]
    assert pod()["terminationGracePeriodSeconds"] > settings.drain_seconds + settings.shutdown_timeout
    assert given["threads"] == int(container["resources"]["limits"]["cpu"])
    assert str(pod()["securityContext"]["runAsUser"]) == instruction("USER").partition(":")[0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.keys is not None
    assert str(settings.keys.parent) == mounts["keys"]
    assert mounts.keys() == {volume["name"] for volume in pod()["volumes"]}
    annotations = kubernetes()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.port)
    assert annotations["prometheus.io/path"] in PATHS


def test_the_manifests_name_each_other() -> None:
    found = kubernetes()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
    ):
        assert selector == labels
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] in {named["name"] for named in pod()["containers"][0]["ports"]}
    least = found["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] < least


def run_tool(name: str, *arguments: str) -> None:
    tool = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    run_tool("hadolint", str(DEPLOY / "Containerfile"))


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    run_tool("kubernetes-validate", "--strict", "-k", version, str(DEPLOY / "kubernetes.yaml"))


def test_the_health_check_sees_the_server_that_the_image_starts(bundled: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    replaced = {"/bundle": str(bundled), "0.0.0.0": "127.0.0.1", "8000": port}  # noqa: S104
    command = [sys.executable, "-m", "palmette.cli", *(replaced.get(part, part) for part in entrypoint()[1:])]
    check = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    check = [sys.executable, *(part.replace(":8000/", f":{port}/") for part in check[1:])]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--set", "drain_seconds=0"], stderr=log)
    try:
        limit = time.monotonic() + 60
        while subprocess.run(check, capture_output=True, check=False).returncode:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit
        process.terminate()
        assert process.wait(30) == 0
        assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    finally:
        process.kill()
        process.wait()
