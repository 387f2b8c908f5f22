"""The graph under a supervisor: the unit of `deploy/jetson` under a systemd of its own, or a stand-in for it."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from actrec.utils.errors import DeviceError
from benchmarks.faults.live_graph import LiveGraph

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy/jetson/actrec.service"
COMMANDS = ("unshare", "nsenter", "setpriv", "mount", "systemctl", "groupadd", "useradd")
SYSTEMD = "/lib/systemd/systemd"
BOOT_S = 20.0  # time for systemd to answer
COMMAND_S = 60.0  # time for a command in its namespaces

OWN_CGROUP = """
for place in /sys/fs/cgroup /sys/fs/cgroup/*; do
  case "$place" in */cpu*) continue ;; esac  # a group has the share of a single process
  [ -w "$place/cgroup.procs" ] && mkdir -p "$place/$1" && echo $$ > "$place/$1/cgroup.procs"
done 2>/dev/null
shift
exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --mount-proc --cgroup "$@"
"""
"""Starts a command in namespaces and a control group of its own, with its parent's end as its end."""

BOOT = """
set -e
grep -E ' cgroup2? ' /proc/self/mounts | while read -r _ place type options _; do
  umount -l "$place"
  options="$(tr , '\\n' <<< "$options" | grep -Ev '^(rw|ro|nosuid|nodev|noexec|relatime)$' | paste -sd , || true)"
  case "$options" in name=*) options="none,$options" ;; esac
  mount -t "$type" ${options:+-o "$options"} "$type" "$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
mkdir -p /etc/systemd/system
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
for name in sysinit basic network-online multi-user shutdown; do
  printf '[Unit]\\nDefaultDependencies=no\\n' > "/etc/systemd/system/$name.target"
done
rm -rf /etc/actrec
export container=actrec SYSTEMD_UNIT_PATH=/etc/systemd/system
exec "$@"
"""
"""Mounts only the control groups below our own, and temporary layers on /etc and /run."""


class Systemd:
    """A systemd that is process 1 of namespaces of its own, which share the network and /dev/shm; a context manager.

    It sees the machine's files. Changes in /etc and /run stay in its namespaces; it starts no unit of the machine.
    """

    def __init__(self) -> None:
        self._cgroup = f"actrec_{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0

    @classmethod
    def problem(cls) -> str:
        """Return why no such systemd can run here; empty if it can."""
        if os.geteuid() != 0:
            return "only root can make its namespaces"
        if missing := [name for name in (*COMMANDS, SYSTEMD) if shutil.which(name) is None]:
            return f"{missing[0]} is not installed"
        tried = cls()
        try:
            done = subprocess.run(tried._command("true"), capture_output=True, text=True, check=False)
            return done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}" if done.returncode else ""
        finally:
            tried._remove_cgroups()

    def __enter__(self) -> "Systemd":
        command = self._command(SYSTEMD, "--system", "--unit=basic.target", "--show-status=no", "--log-target=null")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + BOOT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if (
                self._has_started(self._process.pid)
                and self.run("systemctl", "is-active", "basic.target", check=False).returncode == 0
            ):
                return self
            time.sleep(0.1)
        self.__exit__()
        raise DeviceError(f"systemd does not answer within {BOOT_S:g} s")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()  # with all processes of its namespaces
            self._process.wait()
        self._remove_cgroups()

    def run(self, *command: str, check: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the namespaces, with further environment variables."""
        inside = ["nsenter", "--target", str(self._first), "--mount", "--pid", "--cgroup", f"--wd={ROOT}", *command]
        environment = {**os.environ, **variables}
        return subprocess.run(inside, env=environment, check=check, capture_output=True, text=True, timeout=COMMAND_S)

    def write(self, path: str, text: str) -> None:
        """Write a file in the namespaces."""
        self.run("bash", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "bash", path, text)

    def show(self, *properties: str) -> list[str]:
        """Return properties of actrec.service."""
        found = self.run("systemctl", "show", "actrec", *(f"--property={name}" for name in properties)).stdout
        values = dict(line.split("=", 1) for line in found.splitlines())
        return [values[name] for name in properties]

    def _has_started(self, parent: int) -> bool:
        """Return whether systemd has replaced the script that mounts; find its process id."""
        self._first = 0
        with contextlib.suppress(psutil.NoSuchProcess):  # a command of the script, which has ended
            self._first = next(
                (child.pid for child in psutil.Process(parent).children() if child.name() == "systemd"), 0
            )
        return bool(self._first)

    def _command(self, *command: str) -> list[str]:
        return ["bash", "-c", OWN_CGROUP, "bash", self._cgroup, "bash", "-c", BOOT, "bash", *command]

    def _remove_cgroups(self) -> None:
        deadline = time.monotonic() + 2.0
        own = [*Path("/sys/fs/cgroup").glob(self._cgroup), *Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}")]
        for top in own:
            for folder, *_ in os.walk(top, topdown=False):
                while time.monotonic() < deadline:
                    try:
                        Path(folder).rmdir()
                        break
                    except OSError:  # its processes are about to end
                        time.sleep(0.02)


class Service(LiveGraph):
    """A graph that systemd starts, and starts again, by `actrec.service` as `deploy/jetson/install.sh` installs it.

    The unit runs the graph's command instead of `start.sh`, which needs the launch packages of a ROS distribution, with
    the environment of this process, as its user.

    Attributes:
        settings: Further lines of the unit's section Service.
        systemd: Starts the unit.
    """

    settings = ""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.systemd = Systemd()

    def start(self) -> None:
        """Install the unit and start it."""
        self.systemd.__enter__()
        home, script = Path("~root").expanduser(), ROOT / "deploy/jetson/install.sh"
        # The script refuses root, which alone can make these namespaces.
        self.systemd.run("useradd", "--no-create-home", f"--home-dir={home}", "robot")
        self.systemd.run(str(script), "--service-only", SUDO_USER="robot", ACTREC_ROS="jazzy")
        environment = {**os.environ, **self.environment}
        lines = [f'{name}="{_escaped(value)}"' for name, value in environment.items() if name.isidentifier()]
        self.systemd.write("/etc/actrec/actrec.env", "\n".join(lines) + "\n")
        # systemd replaces $ and % in commands, and PrivateTmp hides a checkout in /tmp.
        command = " ".join(shlex.quote(word.replace("%", "%%").replace("$", "$$")) for word in self.command)
        settings = f"{self.settings}\nUser=root\nExecStart=\nExecStart={command}\nBindReadOnlyPaths={ROOT}\n"
        settings += f"ExecStartPre=\nExecStartPre=+/bin/mkdir -p {home}/.cache/actrec {home}/.ros\n"
        settings += f"StandardOutput=append:{self.log}\nStandardError=append:{self.log}\n"
        self.systemd.write("/etc/systemd/system/actrec.service.d/test.conf", f"[Service]\n{settings}")
        self.systemd.run("systemctl", "daemon-reload")
        self.systemd.run("systemctl", "start", "--no-block", "actrec")

    def kill(self) -> None:
        """Kill all processes of the service at once."""
        self.systemd.run("systemctl", "kill", "--signal=KILL", "actrec")

    def stop(self) -> None:
        """Stop the service and its systemd."""
        self.systemd.run("systemctl", "stop", "actrec", check=False)
        self.systemd.__exit__()


def _escaped(value: str) -> str:
    return re.sub(r'(["\\$`])', r"\\\1", value)


class Emulation(LiveGraph):
    """A graph that is started again after it has ended, as by systemd: `RestartSec` of the unit later."""

    RESTART_S = float(re.findall(r"^RestartSec=(\d+)", UNIT.read_text(encoding="utf-8"), re.MULTILINE)[0])

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")

    def start(self) -> None:
        """Start the command, and again whenever it has ended."""
        super().start()
        self._thread.start()

    def stop(self) -> None:
        """Stop the command for good."""
        self._stopped.set()
        self._thread.join()
        super().stop()

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            if self.process is not None and self.process.poll() is not None and not self._stopped.wait(self.RESTART_S):
                super().start()
