"""Shell scripts pass shellcheck, suggestions included."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("deploy/**/*.sh"), *ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed: make venv EXTRAS=dev")
def test_scripts_pass_shellcheck() -> None:
    command = ["shellcheck", "--format=gcc", "--external-sources", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(SCRIPTS) >= 11 and checked.returncode == 0, checked.stdout + checked.stderr
