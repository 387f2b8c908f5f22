"""Windows and macOS: the core, the networks, calibration and `actrec label` need nothing that only Linux has.

No such machine is here: a process without the modules and functions of POSIX stands for one.
"""

import ast
import itertools
import os
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PORTABLE = ("actrec", "models/actrec_models", "calibration/actrec_calibration")
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
IMPORT = re.compile(rf"^ *(import|from) .*\b({'|'.join(POSIX_MODULES)})\b", re.MULTILINE)
GUARDED = ("sys.platform", "os.name", "hasattr")

WINDOWS = """
import asyncio, concurrent.futures, ctypes, multiprocessing, os, shutil, signal, subprocess, sys, tempfile
import av, cv2, numpy, onnxruntime, scipy, scipy.ndimage, scipy.optimize, tqdm, yaml  # have wheels for Windows

for name in {modules!r}:
    sys.modules[name] = None
for name in ("fchmod", "fork", "getloadavg", "geteuid", "getpgid", "getuid", "killpg", "mkfifo", "sched_getaffinity",
             "sched_setaffinity", "setsid", "statvfs", "sysconf", "uname"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
sys.modules["fcntl"] = None
sys.modules["msvcrt"] = type(sys)("msvcrt")
sys.platform = "win32"

from actrec import cli, load_model
assert load_model("joint_tcn_everyday").package.labels
import actrec_calibration, actrec.recordings.labels, actrec.recordings.clip_recorder, actrec.inference.tensorrt.cache
from actrec.utils import folders
assert folders.temporary("windows").is_dir()
sys.exit(cli.main(["label", {video!r}, "--out", {out!r}, "--csv", {csv!r}]))
"""


def test_modules_of_posix_are_imported_only_behind_a_check() -> None:
    found = []
    for path in (path for folder in PORTABLE for path in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        if not IMPORT.search(text):
            continue
        tree = ast.parse(text)
        checked = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, (ast.If, ast.IfExp)) and any(word in ast.unparse(node.test) for word in GUARDED)
            for part in ast.walk(node)
        }
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {str(node.module)}
            if id(node) not in checked and POSIX_MODULES & names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def write_video(path: Path) -> None:
    """Write four gray images."""
    import av
    import numpy as np

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")))
        file.mux(stream.encode())


def test_label_without_posix_writes_video(tmp_path: Path) -> None:
    video, out, table = tmp_path / "my clip.mp4", tmp_path / "my labels.mp4", tmp_path / "my events.csv"
    write_video(video)
    code = WINDOWS.format(modules=sorted(POSIX_MODULES), video=str(video), out=str(out), csv=str(table))
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 0 and table.read_text().startswith("start_s")


@pytest.mark.slow
def test_label_without_the_packages_of_extras_writes_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install actrec` alone labels a video."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    setup = runpy.run_path("setup.py")
    core, extras = (
        {canonicalize_name(Requirement(text).name) for text in texts}
        for texts in (setup["CORE"], itertools.chain(*setup["EXTRAS"].values()))
    )
    blocked = [
        module
        for module, names in metadata.packages_distributions().items()
        if (found := {canonicalize_name(name) for name in names}) & extras and not found & core
    ]
    assert {"rosbags", "psutil"} <= set(blocked)
    video, table = tmp_path / "clip.mp4", tmp_path / "events.csv"
    write_video(video)
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from actrec.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "label", str(video), "--csv", str(table)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert table.read_text().startswith("start_s")
