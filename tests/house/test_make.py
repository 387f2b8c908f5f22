"""The Makefile installs the requested extras, also into an existing .venv."""

import os
import shutil
import subprocess
import venv
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


def would_run(project: Path, *arguments: str, goal: str = "venv", ros: str = "") -> bool:
    """Return whether `make -n` lists a call of make_venv.sh, if the distribution `ros` is sourced."""
    environment = {key: value for key, value in os.environ.items() if key not in ("EXTRAS", "MAKEFLAGS", "ROS_DISTRO")}
    environment |= {"ROS_DISTRO": ros, "AMENT_PREFIX_PATH": "/"} if ros else {}
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


def test_make_check_runs_no_slow_tests(project: Path) -> None:
    for name in ("setup.py", "setup.cfg"):
        shutil.copy(ROOT / name, project)
    environment = {key: value for key, value in os.environ.items() if key not in ("EXTRAS", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "-n", "check"], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    (line,) = (line for line in done.stdout.splitlines() if "--dist" in line)
    assert '-m "not slow"' in line, done.stderr


def test_make_distribution_that_is_sourced_later_replaces_the_wheels(project: Path) -> None:
    (project / ".venv/ros2").write_text("wheels\n")
    assert would_run(project, ros="jazzy")
    (project / ".venv/ros2").write_text("jazzy\n")
    assert not would_run(project, ros="jazzy")
    assert not would_run(project), "the environment of a distribution is kept in a shell without it"


def stand_in(project: Path, script: str, name: str = ".venv/bin/python") -> str:
    """Write a shell script that stands for a Python; return its path."""
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def make_venv(project: Path, python: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("ROS_DISTRO", "AMENT_PREFIX_PATH")}
    environment |= {"PYTHON": python, **variables}
    command = ["bash", "scripts/make_venv.sh", "live"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("held", "sourced", "message"),
    [
        ("absent", "", "made with ROS 2 absent: source its setup.bash first"),
        (
            "wheels",
            "absent",
            "cannot import rclpy of ROS 2 absent, which is sourced: make venv PYTHON=/usr/bin/python3",
        ),
    ],
)
def test_make_venv_environment_survives_a_wrong_shell(project: Path, held: str, sourced: str, message: str) -> None:
    python = stand_in(project, 'case "$*" in *rclpy*) exit 1 ;; esac', name="other/python")
    (project / ".venv/ros2").write_text(held)
    result = make_venv(project, python, **({"ROS_DISTRO": sourced, "AMENT_PREFIX_PATH": "/"} if sourced else {}))
    assert result.returncode == 1 and message in result.stderr
    assert (project / ".venv/.ready").exists()


def test_make_venv_wheels_on_arm64_are_refused_with_a_remedy(project: Path) -> None:
    stand_in(project, "echo Linux aarch64", "bin/uname")
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = make_venv(project, stand_in(project, "exit 0", "python"), PATH=path)
    assert done.returncode == 1 and "source a ROS 2 distribution first" in done.stderr


def test_make_venv_interrupted_creation_is_repeated(project: Path) -> None:
    stand_in(project, "exit 1")  # without pip
    log = project / "calls"
    python = stand_in(
        project, f'echo "$*" >> {log}; [ "$2" != venv ] || echo "exit 0" > .venv/bin/python', name="o/python"
    )
    assert make_venv(project, python).returncode == 0
    assert "-m venv --clear .venv" in log.read_text().splitlines()


def test_make_venv_versions_are_of_the_environments_python(project: Path) -> None:
    stand_in(project, 'case "$*" in *"(3, 11)"*) exit 1 ;; *print*) echo 3.10 ;; esac')
    python = stand_in(project, 'case "$*" in *print*) echo 3.13 ;; esac', name="other/python")
    result = make_venv(project, python)
    assert "versions of humble" in result.stdout, result.stderr
    assert ".venv has Python 3.10, and" in result.stdout


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


def test_make_venv_ros2_of_a_distribution_runs_with_the_environments_python(project: Path) -> None:
    """Launch files import actrec, whose packages the system's Python lacks."""
    python = project / ".venv/bin/python"  # stands for the environment's
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "python of the environment:" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/", "PYTHON": str(python)}
    subprocess.run(["bash", "scripts/make_venv.sh", "live"], cwd=project, env=environment, check=True)
    for name, module in {"ros2": "ros2cli.cli", "colcon": "colcon_core.command"}.items():
        command = project / ".venv/bin" / name
        result = subprocess.run([command, "launch", "actrec"], capture_output=True, text=True, check=True)
        assert result.stdout == f"python of the environment: {command} launch actrec\n"
        assert f"from {module} import main" in command.read_text()


def test_env_distribution_sourced_later_leaves_ros2_of_the_environment_first(tmp_path: Path) -> None:
    """Also if it is sourced more than once, and in a folder with a space."""
    project, distribution = tmp_path / "a clone", tmp_path / "opt ros"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    venv.create(project / ".venv", symlinks=True)
    (project / ".venv/ros2").write_text("jazzy")
    distribution.mkdir()
    for folder in (project / ".venv/bin", distribution):
        (folder / "ros2").write_text("#!/bin/sh\n")
        (folder / "ros2").chmod(0o755)
    source = '. "$1/scripts/env.sh"; '
    line = f'set -u; {source} PATH="$2:$PATH"; {source * 2} command -v ros2; echo "$PATH"'
    environment = {**os.environ, "ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/", "VIRTUAL_ENV": ""}
    command = ["bash", "-c", line, "bash", str(project), str(distribution)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found, path = result.stdout.splitlines()
    assert found == str(project / ".venv/bin/ros2"), result.stderr
    assert path.split(":")[:3] == [str(project / ".venv/bin"), str(distribution), str(project / ".venv/bin")]
    assert path.count(str(project)) == 2, "it is prepended once"


@pytest.mark.parametrize(("status", "lines"), [(0, 2), (1, 4)])
def test_make_venv_shows_output_of_pip_only_if_it_fails(project: Path, status: int, lines: int) -> None:
    python = project / ".venv/bin/python"  # stands for the environment's, as pip itself would take minutes
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n[ \"$3\" = install ] && echo 'Collecting numpy' && exit {status}\nexit 0\n")
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
