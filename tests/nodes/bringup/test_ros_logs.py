"""ROS starts also if its logs cannot be written to the usual folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
PROGRAM = "import rclpy; from actrec_nodes.bringup.processes import ros\nwith ros() as context: print(context.ok())"


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({}, "HOME is not set"),
        ({"HOME": "/proc/nonexistent"}, "No such file or directory"),
        ({"HOME": "/proc/nonexistent", "ROS_LOG_DIR": "{tmp}/logs"}, ""),
        ({"ROS_HOME": "{tmp}/ros"}, ""),
    ],
)
def test_ros_starts_without_a_writable_log_folder(tmp_path: Path, given: dict[str, str], cause: str) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "ROS_HOME", "ROS_LOG_DIR")}
    environment = kept | {key: value.format(tmp=tmp_path) for key, value in given.items()}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert ("cannot be written (" in done.stderr) == bool(cause)
    assert cause in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.rglob("*.log")), "the logs are there"
