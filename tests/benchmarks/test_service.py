"""The unit `actrec.service` under a systemd of its own, as `deploy/jetson/install.sh` installs it."""

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there: source a distribution or scripts/env.sh")
pytest.importorskip("actrec_msgs.msg", reason="the messages are not built: make build")

from benchmarks.faults.live_graph import START_S, camera_arguments, run_command, running
from benchmarks.faults.service import ROOT, Service, Systemd

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

NODES = ("camera_node", "skeleton_node", "recognizer_node")
SEEN = ("/tmp/written", "/tmp/groups", "/tmp/privileges")
PROBE = """
cd
for place in . .cache .cache/actrec .ros /etc /var/tmp /tmp /dev/shm /usr; do
  touch "$place/actrec_probe" && rm "$place/actrec_probe" && written="$written $place"
done
echo $written > /tmp/written
id -Gn > /tmp/groups
grep NoNewPrivs /proc/self/status > /tmp/privileges
systemd-notify --ready
exec sleep infinity
"""


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with Systemd() as started:
        yield started


@pytest.fixture(autouse=True, scope="module")
def _needs_systemd() -> None:
    if problem := Systemd.problem():
        pytest.skip(f"systemd cannot run here: {problem}")


def test_service_of_a_user_writes_only_caches_and_logs_at_its_first_start(systemd: Systemd) -> None:
    systemd.run("mount", "-t", "tmpfs", "tmpfs", "/home")
    systemd.run("useradd", "--create-home", "robot")
    systemd.run(str(ROOT / "deploy/jetson/install.sh"), "--service-only", SUDO_USER="robot", ACTREC_ROS="jazzy")
    systemd.write("/run/probe.sh", PROBE)
    settings = "[Service]\nExecStart=\nExecStart=/bin/bash /run/probe.sh\nWorkingDirectory=/\n"
    systemd.write("/etc/systemd/system/actrec.service.d/test.conf", settings)
    systemd.run("systemctl", "daemon-reload")
    systemd.run("systemctl", "start", "actrec")
    state, process = systemd.show("ActiveState", "MainPID")
    written, groups, privileges = systemd.run(
        "nsenter", "--target", process, "--mount", "cat", *SEEN
    ).stdout.splitlines()
    assert state == "active"
    assert written.split() == [".cache/actrec", ".ros", "/var/tmp", "/tmp", "/dev/shm"]
    assert set(groups.split()) == {"robot", "video", "render"}
    assert privileges.split() == ["NoNewPrivs:", "1"]


class Watched(Service):
    """A service that is started again after 8 s without an answer."""

    settings = "WatchdogSec=8"


@pytest.mark.slow
def test_service_reports_a_graph_restarts_it_and_ends_it() -> None:
    """A graph whose main process stops is started again by the watchdog."""
    command = run_command(NODES, *camera_arguments(width=320, height=240, fps=10.0))
    command.remove("--processes")  # one starts faster
    with running(NODES, command=command, kind=Watched, wait=False) as graph:
        assert isinstance(graph, Watched)
        systemd, monitor = graph.systemd, graph.monitor
        assert systemd.show("ActiveState") == ["activating"]
        assert monitor.wait_for(lambda: bool(monitor.labels), START_S), graph.text()
        while systemd.show("ActiveState", "StatusText", "NRestarts") != ["active", "3 nodes are active", "0"]:
            graph.settle(0.5)
        systemd.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", "actrec")
        while systemd.show("NRestarts") == ["0"]:
            graph.settle(0.5)
        count = len(monitor.labels)
        assert monitor.wait_for(lambda: len(monitor.labels) > count, START_S), graph.text()
        systemd.run("systemctl", "stop", "actrec")
        assert systemd.show("ActiveState", "Result") == ["inactive", "success"]
        assert "actrec" not in systemd.run("ps", "-e", "-o", "args").stdout.replace("ps -e", "")
