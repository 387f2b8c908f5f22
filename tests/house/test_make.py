"""The Makefile installs the requested extras, also into an existing .venv."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Create a project whose .venv is newer than all its sources."""
    for folder in ("requirements", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def would_run(project: Path, *arguments: str, goal: str = "venv") -> bool:
    """Return whether `make -n` lists a call of make_venv.sh."""
    environment = {key: value for key, value in os.environ.items() if key not in ("EXTRAS", "MAKEFLAGS")}
    result = subprocess.run(
        ["make", "-n", goal, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    return "make_venv.sh" in result.stdout


def test_extras_that_are_missing_are_added(project: Path) -> None:
    (project / ".venv/.extras").write_text("dev\nlive\n")
    assert not would_run(project), "without EXTRAS, the existing environment is accepted"
    assert not would_run(project, "EXTRAS=live")
    assert not would_run(project, "EXTRAS=live dev")
    assert would_run(project, "EXTRAS=live train")


def test_make_goals_of_developers_install_their_extras(project: Path) -> None:
    """After `make venv build EXTRAS=live`, `make test` finds pytest, and `make build` leaves the environment small."""
    for name in ("setup.py", "setup.cfg"):
        shutil.copy(ROOT / name, project)
    (project / ".venv/.extras").write_text("live\n")
    for goal in ("test", "check", "coverage", "lint", "format"):
        assert would_run(project, goal=goal), goal
    assert not would_run(project, goal="build")
    assert not would_run(project, "EXTRAS=live", goal="test")
    (project / ".venv/.extras").write_text("dev\nlive\ntrain\nview\n")
    assert not would_run(project, goal="test")


def test_make_unknown_environment_is_unchanged(project: Path) -> None:
    assert not would_run(project, "EXTRAS=view")
    os.utime(project / ".venv/.ready", (0, 0))
    assert would_run(project)


@pytest.mark.parametrize(
    ("distribution", "versions"),
    [("humble", "humble"), ("jazzy", "jazzy"), ("kilted", "jazzy"), ("lyrical", "lyrical")],
)
def test_make_venv_sourced_distribution_gets_its_versions(project: Path, distribution: str, versions: str) -> None:
    python = project / ".venv/bin/python"  # stands for the distribution's, with rclpy, and for the environment's
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho $@\n")
    python.chmod(0o755)
    (project / ".venv/ros2").write_text(distribution)
    environment = {**os.environ, "ROS_DISTRO": distribution, "AMENT_PREFIX_PATH": "/", "PYTHON": str(python)}
    command = ["bash", "scripts/make_venv.sh", "live"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert f"versions of {versions}" in result.stdout
    assert f"-c requirements/constraints/{versions}.txt" in (project / ".venv/install.log").read_text()


@pytest.mark.parametrize(("status", "lines"), [(0, 2), (1, 4)])
def test_make_venv_shows_output_of_pip_only_if_it_fails(project: Path, status: int, lines: int) -> None:
    python = project / ".venv/bin/python"  # stands for the environment's, as pip itself would take minutes
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n[ $2 = pip ] && echo 'Collecting numpy' && exit {status}\nexit 0\n")
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "ROS_DISTRO"}
    command = ["bash", "scripts/make_venv.sh", "live"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    output = result.stdout + result.stderr
    assert len(output.splitlines()) == lines, output
    failure = (
        "Collecting numpy\nactrec: installing Python packages has failed; all of its output is in .venv/install.log"
    )
    assert (failure in output) == bool(status)
    assert (project / ".venv/install.log").read_text().startswith("Collecting numpy")
