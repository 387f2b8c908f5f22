"""No network access at run time: models, estimators and `actrec doctor` work from files alone."""

import subprocess
import sys

import pytest

RUN = """
import ipaddress
import sys

attempts = []


def is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0] or ""
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not is_local(host):
        attempts.append(f"{event} {host}")
        raise OSError(f"{event} {host} is refused: no network at run time")


sys.addaudithook(hook)
"""

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

ATTEMPT = """
import socket

for call in (lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        call()
    except OSError:
        pass
"""


def attempts(work: str) -> str:
    """Run code in a process that refuses connections to other machines; return the attempts."""
    code = f"{RUN}{work}\nprint('attempts:', attempts)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_run_time_makes_no_connection_to_other_machines() -> None:
    assert attempts(WORK) == "attempts: []"


def test_connection_to_another_machine_is_found() -> None:
    assert attempts(ATTEMPT) == "attempts: ['socket.getaddrinfo 192.0.2.1', 'socket.getaddrinfo example.org']"
