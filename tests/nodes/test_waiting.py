"""Each command that waits for a running graph names it after some seconds, and ends with a remedy."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actrec.cli import main
from actrec.types import Intrinsics
from actrec.utils import calibration_files, waiting
from actrec.utils.errors import DeviceError
from actrec.utils.waiting import Waiting

pytestmark = pytest.mark.ros

GRAPH = "start the graph first (actrec run)"
CAMERA = "start the camera's node first (actrec run --nodes camera), or give --driver"
TOPIC = ["--topic", "camera/color/image_raw", "--serial", "1"]
COMMANDS = {
    "record": (["record", "--out", "bag", "--duration", "3"], "message on the topics of the graph ", GRAPH),
    "record topic": (["record", "--out", "bag", "--topics", "/people"], "message on /people ", GRAPH),
    "record label": (["record", "--label", "wave"], "skeletons on /skeletons ", GRAPH),
    "view": (["view", "--out", "graph.rrd", "--duration", "3"], "images, people or labels of a graph ", GRAPH),
    "calibrate intrinsics": (["calibrate", "intrinsics", *TOPIC], "image on /camera/color/image_raw ", CAMERA),
    "calibrate check": (
        ["calibrate", "check", *TOPIC, "--against", "camera.yaml"],
        "image on /camera/color/image_raw ",
        CAMERA,
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_without_a_graph_names_it_and_ends_with_a_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "view":
        pytest.importorskip("rerun", reason="needs Rerun: make venv EXTRAS='live view'")
    arguments, what, remedy = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    monkeypatch.setattr(waiting, "SAY_S", 0.0)
    calibration_files.write_intrinsics(Path("camera.yaml"), Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5), "1")
    assert main([*arguments, "--wait", "1"]) == 1
    said, error = (line for line in capsys.readouterr().err.splitlines() if line.startswith("actrec: "))
    assert said.startswith(f"actrec: waiting for {what}"), said
    assert said.endswith(", for 1 s at most")
    assert error.startswith(f"actrec: no {what.strip()}") and "within 1 s (--wait): " in error and remedy in error
    assert not (tmp_path / "bag").exists(), "the same command works later"


@pytest.mark.slow
def test_record_interrupted_while_it_waits_ends_at_once_without_a_bag(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "actrec", "record", "--out", str(tmp_path / "bag"), "--wait", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "until Ctrl-C" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130 and "interrupted before the first frame" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "bag").exists()


def test_waiting_returns_whether_the_message_came() -> None:
    stopped, said = threading.Event(), []
    waits = Waiting(stopped, said.append, limit_s=0.2)
    assert waits.until(lambda: True, "image", str, "remedy")
    with pytest.raises(DeviceError, match=r"no image within 0.2 s \(--wait\): it is dark; switch on the light"):
        waits.until(lambda: False, "image", lambda: "it is dark", "switch on the light")
    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    assert not Waiting(stopped, said.append, limit_s=0.0).until(lambda: False, "image", str, "remedy")
    assert time.monotonic() > began and said == []
