"""Containers run as a user without privileges: both Dockerfiles, the compose files, and the command for a Jetson."""

import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCKERFILES = ("docker/Dockerfile", "jetson/Dockerfile")
PRIVILEGES = {"privileged", "user", "cap_add", "pid", "userns_mode", "devices"}
"""Keys of a compose service that would give it more than the image's user has."""


def instructions(path: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / path).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, " ".join(rest)) for name, *rest in map(str.split, filter(str.strip, lines))]


def services(name: str) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file, each with the settings that all have."""
    content = yaml.safe_load((DEPLOY / "docker" / name).read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = content["services"]
    return found


@pytest.mark.parametrize("path", DOCKERFILES)
def test_image_runs_as_a_user_that_is_not_root(path: str) -> None:
    found = instructions(path)
    names = [name for name, _ in found]
    (user,) = (arguments for name, arguments in found if name == "USER")
    (made,) = re.findall(
        r"useradd --uid (\d+) .*?(\w+)(?: &&|$)", " ".join(rest for name, rest in found if name == "RUN")
    )
    assert user in made and int(made[0]) >= 1000
    after = names[names.index("USER") + 1 :]
    assert {"ENTRYPOINT"} <= set(after) <= {"ENTRYPOINT", "CMD", "STOPSIGNAL"}
    assert not re.search(r"\b(sudo|setcap|chmod\s+\S*[+]s)\b", (DEPLOY / path).read_text(encoding="utf-8"))


def test_image_volumes_are_of_its_user() -> None:
    """Docker gives a new volume the owner of the folder in the image; all else is read-only."""
    for path in DOCKERFILES:
        found = instructions(path)
        (volume,) = (arguments for name, arguments in found if name == "VOLUME")
        (owned,) = re.findall(r"install -d -o actrec ([^&]+)", " ".join(rest for _, rest in found))
        caches = re.findall(r"\w+=(/var/\S+)", " ".join(rest for name, rest in found if name == "ENV"))
        assert volume in owned.split() and all(cache.startswith(volume) for cache in caches)


@pytest.mark.parametrize("name", ["graph", "view"])
def test_compose_service_has_no_privileges_and_writes_only_to_its_cache(name: str) -> None:
    service = services("compose.yaml")[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"] and service["environment"]["ROS_LOG_DIR"].startswith("/tmp/")
    assert not PRIVILEGES & set(service)
    cache, models = service["volumes"]
    assert cache == "cache:/var/cache/actrec" and models.endswith(":/models:ro")


def test_compose_web_page_is_of_this_machine_by_default() -> None:
    assert "${ACTREC_HOST:-127.0.0.1}" in services("compose.yaml")["view"]["command"]
    assert set(services("compose.yaml")) == {"graph", "view"}


def test_compose_camera_adds_only_groups_and_devices_of_cameras() -> None:
    (service,) = services("compose.camera.yaml").values()
    assert set(service) == {"group_add", "device_cgroup_rules", "volumes"}
    assert service["group_add"] == ["video", "plugdev"] and service["volumes"] == ["/dev:/dev"]
    assert service["device_cgroup_rules"] == ["c 81:* rmw", "c 189:* rmw"], "video and USB"


def test_container_on_a_jetson_has_no_privileges(tmp_path: Path) -> None:
    for name, text in {"docker": 'printf "%s\\n" "$@"', "getent": "echo render:x:105:"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MODELS": str(tmp_path / "models")}
    command = ["bash", str(DEPLOY / "jetson/run.sh"), "model:=/models/mine"]
    words = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()
    options = dict(itertools.pairwise(words))
    assert (options["--cap-drop"], options["--security-opt"]) == ("ALL", "no-new-privileges")
    assert f"{tmp_path}/models:/models:ro" in words and words[-1] == "model:=/models/mine"
    assert not {"--privileged", "--user", "--cap-add", "--pid", "--device"} & set(words)
