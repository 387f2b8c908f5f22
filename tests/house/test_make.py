"""The Makefile: extras that are asked for are installed, also into a .venv that is there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A project whose .venv is newer than everything it was made of."""
    for folder in ("requirements", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def would_run(project: Path, *arguments: str) -> bool:
    """Whether make would call make_venv.sh, which here it does not."""
    environment = {key: value for key, value in os.environ.items() if key not in ("EXTRAS", "MAKEFLAGS")}
    said = subprocess.run(
        ["make", "-n", "venv", *arguments], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    return "make_venv.sh" in said.stdout


def test_extras_that_are_missing_are_added(made: Path) -> None:
    (made / ".venv/.extras").write_text("dev\nlive\n")
    assert not would_run(made), "no EXTRAS accepts the present environment"
    assert not would_run(made, "EXTRAS=live")
    assert not would_run(made, "EXTRAS=live dev")
    assert would_run(made, "EXTRAS=live train")


def test_make_unknown_environment_is_unchanged(made: Path) -> None:
    assert not would_run(made, "EXTRAS=view")
    os.utime(made / ".venv/.ready", (0, 0))
    assert would_run(made)
