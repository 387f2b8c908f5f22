"""No node outlives a killed parent, and shared memory of killed processes is removed."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actrec.utils import stop_signals
from actrec_nodes.bringup import transport
from actrec_nodes.bringup.endings import PARENT

CHILD = """
import os, sys, time
from actrec_nodes.bringup import endings, processes
if sys.argv[1] == "cleans up":
    import contextlib
    with processes._interruptible(), contextlib.suppress(KeyboardInterrupt):
        endings.end_with_parent()
        print("ready", flush=True)
        time.sleep(60)
    print("clean", flush=True)
else:  # a driver that hangs
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    endings.ORPHAN_S = 0.2
    endings.end_with_parent()
    print("ready", flush=True)
    time.sleep(60)
"""

STARTER = """
import os, subprocess, sys, time
environment = {**os.environ, sys.argv[1]: str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", *sys.argv[2:]], start_new_session=True, env=environment)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["cleans up", "hangs"])
def test_child_ends_after_its_parent_is_killed(kind: str) -> None:
    command = [sys.executable, "-c", STARTER, PARENT, CHILD, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == ("clean\n" if kind == "cleans up" else "")  # to the end of the child
        psutil.wait_procs([child], timeout=60)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_child_whose_parent_was_killed_during_its_start_ends(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-c", CHILD, "cleans up"]
    result = subprocess.run(command, env={**os.environ, PARENT: str(gone.pid)}, stdout=subprocess.PIPE, check=False)
    assert (result.returncode, result.stdout) == (1, b"")


def test_remove_orphans_keeps_the_memory_in_use(tmp_path: Path) -> None:
    names = ["fastrtps_0123456789abcdef", "fastrtps_port7411", "fastrtps_port7413", "another"]
    for name in names:
        for path in (name, f"{name}_el", f"sem.{name}_mutex"):
            (tmp_path / path).touch()
            os.utime(tmp_path / path, (0, 0))
    (tmp_path / "fastrtps_port7415_el").touch()  # just made
    (tmp_path / "fastrtps_port7417").touch()
    (tmp_path / "fastrtps_port7419").write_bytes(b"memory")
    for name in ("fastrtps_port7419", "fastrtps_port7421"):
        with (tmp_path / name).open("ab"):  # 7421 is of a process that died as it made it
            os.utime(tmp_path / name, (0, 0))
    with (tmp_path / "fastrtps_port7413_el").open() as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        transport.remove_orphans(tmp_path)
    kept = {"fastrtps_port7413", "another"}
    new = {"fastrtps_port7415_el", "fastrtps_port7417", "fastrtps_port7419"}
    assert {p.name for p in tmp_path.iterdir()} == new | {
        path for name in kept for path in (name, f"{name}_el", f"sem.{name}_mutex")
    }


def test_stop_signals_include_the_terminals_unless_nohup_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
