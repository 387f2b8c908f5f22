"""No network access at run time: models, estimators, `actrec label` and `actrec doctor` work from files alone."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.refused_network import attempts

WORK = """
from actrec import cameras, cli, load_model
from actrec.inference import zoo
from actrec.perception import Pipeline
from actrec.recognition import ActionRecognizer

recognizer = ActionRecognizer(load_model("joint_tcn_everyday"))
zoo.list_packages()
with cameras.create("simulated", actions=["wave"], realtime=False, fps=10.0) as camera, Pipeline() as pipeline:
    for _ in range(5):
        frame = camera.read(30.0)
        people = pipeline.process(frame)
        recognizer.add_skeletons(frame.stamp_ns, people.bodies)
        recognizer.predict()
assert people.bodies and people.faces
print(cli.main(["doctor", "--no-transport"]))
"""

LABEL = """
import contextlib
from pathlib import Path

from actrec import cameras, cli
from actrec.recordings.video import VideoWriter

with cameras.create("simulated", actions=["wave"], realtime=False, fps=10.0) as camera:
    with contextlib.closing(VideoWriter(Path("wave.mp4"))) as video:
        for _ in range(15):
            frame = camera.read(30.0)
            video.write(frame.color, frame.stamp_ns)
assert cli.main(["label", "wave.mp4", "--out", "labeled.mp4", "--csv", "events.csv"]) == 0
"""

ATTEMPT = """
import socket

for call in (lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        call()
    except OSError:
        pass
"""

LIBRARY = """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
for host in (b"\\xc0\\0\\2\\1", b"\\x7f\\0\\0\\1", b"\\xef\\xff\\0\\1"):  # another machine, this one, multicast
    address, socket = b"\\2\\0\\0P" + host + bytes(8), libc.socket(2, 2, 0)  # UDP, port 80
    libc.connect(socket, address, 16)
    libc.sendto(socket, b"", 0, 0, address, 16)
found = ctypes.c_void_p()
libc.getaddrinfo(b"example.org", b"80", None, ctypes.byref(found))
libc.getaddrinfo(b"127.0.0.1", b"80", None, ctypes.byref(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("work", [WORK, LABEL], ids=["Python", "label"])
def test_run_time_makes_no_connection_to_other_machines(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert attempts(work, tmp_path) == []


def test_connection_to_another_machine_is_found(tmp_path: Path) -> None:
    assert attempts(ATTEMPT, tmp_path) == ["socket.getaddrinfo 192.0.2.1", "socket.getaddrinfo example.org"]


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="cc is not installed")
def test_connection_of_a_library_to_another_machine_is_found(tmp_path: Path) -> None:
    assert attempts(LIBRARY, tmp_path) == ["connect 192.0.2.1", "sendto 192.0.2.1", "getaddrinfo example.org"]
