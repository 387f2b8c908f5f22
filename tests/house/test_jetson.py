"""The Jetson's files are consistent: the commands of install.sh, and the paths and names that files refer to."""

import configparser
import getpass
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
JETSON = ROOT / "deploy/jetson"
SCRIPTS = sorted(path.name for path in JETSON.glob("*.sh"))
UNITS = sorted(path.name for path in JETSON.glob("*.service"))


def install(folder: Path, release: str, ubuntu: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `deploy/jetson/install.sh --dry-run` on a machine with the given release files."""
    if release:
        number, _, revision = release.partition(".")
        line = f"# R{number} (release), REVISION: {revision}, GCID: 43, BOARD: generic, EABI: aarch64\n"
        (folder / "nv_tegra_release").write_text(line)
    (folder / "os-release").write_text(f'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="{ubuntu}"\n')
    variables = {
        "ACTREC_TEGRA_RELEASE": str(folder / "nv_tegra_release"),
        "ACTREC_OS_RELEASE": str(folder / "os-release"),
        "ACTREC_APT_SOURCES": str(folder),
    }
    command = ["bash", str(JETSON / "install.sh"), "--dry-run", *options]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("release", "ubuntu", "distribution", "codename", "cuda"),
    [
        ("36.4.3", "22.04", "humble", "jammy", "cuda-python==12.6."),
        ("38.4.0", "24.04", "jazzy", "noble", "cuda-bindings==13.0."),
        ("39.2.1", "24.04", "jazzy", "noble", "cuda-bindings==13.2."),
    ],
)
def test_install_each_jetpack_gets_its_own_wheels(
    tmp_path: Path, release: str, ubuntu: str, distribution: str, codename: str, cuda: str
) -> None:
    result = install(tmp_path, release, ubuntu, "--realsense")
    assert result.returncode == 0, result.stderr
    for name in ["ros-base", "diagnostic-msgs", "tf2-ros-py", "realsense2-camera"]:
        assert f"ros-{distribution}-{name} " in result.stdout
    assert "nvidia-cuda nvidia-tensorrt python3-libnvinfer" in result.stdout
    assert f".{codename}_all.deb" in result.stdout
    assert f"/opt/ros/{distribution}/setup.bash" in result.stdout
    assert f"pip install --disable-pip-version-check {cuda}" in result.stdout
    assert "import\\ tensorrt" in result.stdout
    assert "systemctl" not in result.stdout


@pytest.mark.parametrize(
    ("release", "ubuntu", "message"),
    [
        ("", "22.04", "this is no Jetson"),
        ("35.4.1", "20.04", "Jetson Linux 35.4.1 is not supported"),
        ("36.3.0", "22.04", "update to JetPack 6.1"),
        ("36.4.3", "24.04", "comes with Ubuntu 22.04"),
        ("40.1", "26.04", "Jetson Linux 40.1 is not supported"),
    ],
)
def test_other_releases_are_refused_in_one_line(tmp_path: Path, release: str, ubuntu: str, message: str) -> None:
    result = install(tmp_path, release, ubuntu)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("actrec: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_install_unknown_option_is_wrong_use(tmp_path: Path) -> None:
    result = install(tmp_path, "36.4.3", "22.04", "--fast")
    assert result.returncode == 2
    assert "unknown option '--fast'" in result.stderr


def test_install_in_a_container_takes_the_release_and_skips_tensorrt(tmp_path: Path) -> None:
    result = install(tmp_path, "", "24.04", "--l4t", "39.2")
    assert result.returncode == 0, result.stderr
    assert "jetson/common\\ r39.2\\ main" in result.stdout
    assert "import\\ tensorrt" not in result.stdout


def test_ros_can_be_left_as_it_is(tmp_path: Path) -> None:
    result = install(tmp_path, "36.4.3", "22.04", "--no-ros")
    assert "ros2-apt-source" not in result.stdout
    assert "ros-humble" not in result.stdout
    assert ". /opt/ros/humble/setup.bash" in result.stdout.replace("\\", "")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let install.sh run under sudo of an ordinary user, also if root runs the tests."""
    monkeypatch.setenv("SUDO_USER", "nobody")


@pytest.mark.parametrize("options", [("--service",), ("--service", "--realsense"), ("--service-only",)])
def test_install_service_of_root_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SUDO_USER", "root")
    monkeypatch.setenv("ACTREC_ROS", "jazzy")
    result = install(tmp_path, "36.4.3", "22.04", *options)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "the service would run as root: run install.sh as the robot's user" in result.stderr
    if os.geteuid() == 0:
        monkeypatch.delenv("SUDO_USER")
        assert install(tmp_path, "36.4.3", "22.04", *options).returncode == 1
    monkeypatch.setenv("SUDO_USER", "nobody")
    assert install(tmp_path, "36.4.3", "22.04", *options).returncode == 0, "the remedy"


def test_install_without_the_service_works_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container's build."""
    monkeypatch.setenv("SUDO_USER", "root")
    assert install(tmp_path, "36.4.3", "22.04").returncode == 0


@pytest.mark.usefixtures("user")
def test_install_service_comes_with_its_files(tmp_path: Path) -> None:
    result = install(tmp_path, "36.4.3", "22.04", "--service", "--realsense")
    installed = set(re.findall(r"install -m 644 \S+ (\S+)", result.stdout))
    assert {f"/etc/systemd/system/{unit}" for unit in UNITS} <= installed
    for path in installed:
        assert (JETSON / Path(path).name).is_file()
    read = re.findall(r"/etc/actrec/\w+\.\w+", "".join((JETSON / name).read_text() for name in [*UNITS, "actrec.env"]))
    assert set(read) == {path for path in installed if path.startswith("/etc/actrec/")}
    assert "systemctl enable actrec.service actrec-camera.service" in result.stdout
    groups = {
        name for unit in UNITS for name in re.findall(r"^SupplementaryGroups=(.*)", (JETSON / unit).read_text(), re.M)
    }
    assert set(re.findall(r"groupadd --force --system (\w+)", result.stdout)) == set(" ".join(groups).split())


@pytest.mark.usefixtures("user")
def test_install_service_only_under_sudo_is_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTREC_ROS", "jazzy")
    result = install(tmp_path, "", "24.04", "--service-only")
    assert result.returncode == 0 and result.stderr == ""
    assert "apt-get" not in result.stdout and "systemctl enable actrec.service\n" in result.stdout


@pytest.mark.usefixtures("user")
def test_install_service_only_without_a_distribution_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTREC_ROS", "wheels")
    result = install(tmp_path, "", "24.04", "--service-only")
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "needs a ROS 2 distribution: source one, then: make venv workspace" in result.stderr


@pytest.mark.usefixtures("user")
def test_install_service_only_without_the_workspace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deploy", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/ros2").write_text("jazzy")
    monkeypatch.delenv("ACTREC_ROS", raising=False)
    monkeypatch.setattr(sys.modules[__name__], "JETSON", tmp_path / "deploy/jetson")
    result = install(tmp_path, "", "24.04", "--service-only")
    assert result.returncode == 1 and "make workspace" in result.stderr


def test_install_keeps_the_source_of_ros_packages_that_is_there(tmp_path: Path) -> None:
    """Two lists of one source with different keys make apt refuse all."""
    (tmp_path / "sources.list.d").mkdir()
    line = "deb [signed-by=/usr/share/keyrings/ros-archive-keyring.gpg] http://packages.ros.org/ros2/ubuntu jammy main"
    (tmp_path / "sources.list.d/ros2.list").write_text(line)
    result = install(tmp_path, "36.4.3", "22.04")
    assert result.returncode == 0 and "ros2-apt-source" not in result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name: str) -> None:
    path = JETSON / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", ["actrec.service", "actrec-camera.service", "Dockerfile", *SCRIPTS])
def test_jetson_files_name_existing_paths(name: str) -> None:
    text = (JETSON / name).read_text()
    pattern = r"(?:@ROOT@|\$root|/opt/actrec)/([\w./-]+)|(?<![/\w])((?:deploy|scripts|config)/[\w./-]+\.\w+)"
    paths = {a or b for a, b in re.findall(pattern, text)}
    generated = {".venv/bin/python", "ros2_ws/install/setup.bash"}  # created by make venv and make workspace
    assert [path for path in paths - generated if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", UNITS)
def test_units_restart_without_limit(name: str) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((JETSON / name).read_text().replace("\\\n", " "))
    service = unit["Service"]
    expected = {"Restart": "always", "KillSignal": "SIGINT", "KillMode": "mixed", "User": "@USER@"}
    expected["Type"] = "notify" if name == "actrec.service" else "exec"
    assert {key: service[key] for key in expected} == expected
    assert int(service["RestartSec"]) > 0 and int(service["TimeoutStopSec"]) > 0
    assert service["EnvironmentFile"] == "/etc/actrec/actrec.env"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "network-online.target" in unit["Unit"]["After"].split()
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("name", UNITS)
def test_units_write_only_logs_and_caches_without_privileges(name: str) -> None:
    service = dict(line.split("=", 1) for line in (JETSON / name).read_text().splitlines() if re.match(r"\w+=", line))
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectKernelModules", "RestrictNamespaces", "RestrictSUIDSGID"):
        assert service[key] == "yes"
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"], service["MemoryMax"]) == ("strict", "", "80%")
    written = [path.removeprefix("-@HOME@/") for path in shlex.split(service["ReadWritePaths"])]
    assert set(written) <= {".cache/actrec", ".ros"} and service["ProtectHome"] == "read-only"
    # They must exist before the others become read-only, even if a user has removed them.
    made = " ".join(f'"@HOME@/{path}"' for path in written)
    assert service["ExecStartPre"] == f"+/usr/sbin/runuser -u @USER@ -- mkdir -p {made}"
    assert not {"PrivateDevices", "MemoryDenyWriteExecute"} & set(service)
    # A node notifies systemd, not the main process.
    assert ("WatchdogSec" in service) == (service.get("NotifyAccess") == "all") == (service["Type"] == "notify")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_units_filled_in_are_valid_and_exposed_little(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home folder"
    text = (JETSON / name).read_text()
    for word, value in {"USER": getpass.getuser(), "HOME": str(home), "ROOT": str(ROOT), "ROS": "jazzy"}.items():
        text = text.replace(f"@{word}@", value)
    unit = tmp_path / name
    unit.write_text(text.replace("ExecStart=", f"ExecStart={sys.executable} ", 1))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert not re.search("Unknown|Failed|Invalid|ignoring", verified.stderr, re.IGNORECASE), verified.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=60", str(unit)]
    measured = subprocess.run(command, capture_output=True, text=True, check=False)
    assert measured.returncode == 0, measured.stdout[-200:] + measured.stderr


STANDINS = {
    "sudo": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "getent": 'echo "robot:x:1000:1000::$ROBOT_HOME:/bin/bash"',
    "install": '[ "$1" = -d ] || cp "$3" "$INSTALLED/${4##*/}"',
    "id": 'if [ "$*" = "-u robot" ]; then echo 1000; else exec /usr/bin/id "$@"; fi',
    "groupadd": "",
    "systemctl": "",
}
"""Commands of install.sh that change the system."""


def test_installed_service_makes_its_folders_in_a_home_with_spaces(tmp_path: Path) -> None:
    for folder in ("bin", "etc"):
        (tmp_path / folder).mkdir()
    for name, script in STANDINS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    home = tmp_path / "a home folder"
    variables = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "INSTALLED": f"{tmp_path}/etc",
        "ROBOT_HOME": str(home),
    }
    variables |= {"ACTREC_ROS": "jazzy", "SUDO_USER": "robot"}
    command = ["bash", str(JETSON / "install.sh"), "--service-only"]
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "etc/actrec.service").read_text()
    assert not re.search(r"^[^#].*@\w+@", text, re.MULTILINE)
    (before,) = re.findall(r"^ExecStartPre=\+(.*)", text, re.MULTILINE)
    subprocess.run(shlex.split(before.partition(" -- ")[2]), cwd=tmp_path, check=True)  # systemd splits as a shell does
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*")) == [".cache", ".cache/actrec", ".ros"]
    for key, count in (("ReadWritePaths", 2), ("Environment", 3)):
        values = shlex.split(" ".join(re.findall(rf"^{key}=(.*)", text, re.MULTILINE)))
        assert len(values) == count
        assert all(f"{home}/" in value for value in values if value != "PYTHONUNBUFFERED=1")


def test_service_starts_after_the_camera_by_start_sh() -> None:
    text = (JETSON / "actrec.service").read_text()
    assert "After=network-online.target actrec-camera.service" in text
    assert 'ExecStart="@ROOT@/deploy/jetson/start.sh"' in text
    assert "recognize.launch.py" in (JETSON / "start.sh").read_text()


def test_start_sh_launches_the_graph_with_the_arguments_of_the_service(tmp_path: Path) -> None:
    root = tmp_path / "robot"
    for path in ("deploy/jetson/start.sh", "scripts/env.sh", "ros2_ws/install/setup.bash"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    shutil.copy(JETSON / "start.sh", root / "deploy/jetson/start.sh")
    (tmp_path / "ros2").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "ros2").chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ACTREC_ARGS": "model:=mine composed:=true"}
    command = ["bash", str(root / "deploy/jetson/start.sh"), "namespace:=one two"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    expected = "launch actrec recognize.launch.py model:=mine composed:=true namespace:=one two\n"
    assert result.stdout == expected, result.stderr


def test_services_share_the_transport_profile() -> None:
    """Without the profile on the sender's side too, Fast DDS loses images."""
    text = (JETSON / "actrec-camera.service").read_text()
    names = runpy.run_path(str(ROOT / "nodes/actrec_nodes/bringup/transport.py"))["profile_environment"]({})
    for name in names:
        assert f'Environment="{name}=@ROOT@/config/fastdds.xml"' in text
    assert text.index("EnvironmentFile=") > text.rindex("Environment="), "the user's settings outrank it"


def test_launch_arguments_exist() -> None:
    launch = (ROOT / "nodes/actrec_nodes/bringup/launching.py").read_text()
    for name in ["actrec.env", "run.sh"]:
        arguments = re.findall(r"(\w+):=(\S+)", (JETSON / name).read_text())
        assert arguments
        for argument, value in arguments:
            assert f'"{argument}":' in launch, f"{name}: {argument}"
            if argument == "vendor":
                topics = runpy.run_path(str(ROOT / "nodes/actrec_nodes/common/topics.py"))
                assert value in topics["VENDORS"]


def test_parameter_file_sets_existing_parameters() -> None:
    settings = yaml.safe_load((JETSON / "recognizer.yaml").read_text())
    assert list(settings) == ["/**"]
    for path in ("nodes/actrec_nodes/recognizer_node.py", "actrec/perception/networks.py"):
        source = (ROOT / path).read_text()
        for name in settings["/**"]["ros__parameters"]:
            assert re.search(rf"^    {name}: \w+ = setting\(", source, re.MULTILINE), name


def test_image_build_context_is_complete() -> None:
    """.dockerignore must not exclude a folder that the image needs."""
    ignored = set((ROOT / ".dockerignore").read_text().split("\n"))
    for folder in ["actrec", "nodes", "launch", "config", "deploy", "requirements", "scripts", "models", "ros2_ws"]:
        assert (ROOT / folder).is_dir() and folder not in ignored
    assert {".git", ".venv"} <= ignored
