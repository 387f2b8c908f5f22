"""Code in a process that refuses connections to other machines, with the attempts that it and its libraries made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("refused_network.c")

HOOK = """
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
"""Code before the code to run: Python's own sockets, also if no compiler is there for the libraries'."""


def attempts(work: str, folder: Path, timeout_s: float = 300.0) -> list[str]:
    """Run code; return the attempts of Python, and of its libraries if a C compiler is there."""
    environment, library, noted = dict(os.environ), folder / "refused_network.so", folder / "refused_network.txt"
    if sys.platform == "linux" and (compiler := shutil.which("cc")):
        subprocess.run([compiler, "-O1", "-fPIC", "-shared", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        environment |= {"LD_PRELOAD": str(library), "REFUSED_NETWORK": str(noted)}
    code = f"{HOOK}{work}\nprint('attempts:', *attempts, sep='|')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr + result.stdout
    _, *found = result.stdout.splitlines()[-1].split("|")
    return found + (noted.read_text().splitlines() if noted.exists() else [])
