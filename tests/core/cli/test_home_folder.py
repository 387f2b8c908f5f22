"""A home folder with a space in its name: commands write to it, read from it and check it."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from actrec.recordings.video import read_video_info

SIMULATED = ("--countdown", "0", "--driver", "simulated", "--driver-option", "actions=[wave]")
COMMANDS = (
    ["simulate", "--action", "wave", "--seconds", "2", "--set", "fps=8", "--out", "~/a wave"],
    ["label", "~/a wave", "--labels", "windows", "--out=~/labeled clip.mp4", "--windows", "~/my windows.csv"],
    ["record", "--label", "wave", "--repeat", "1", "--seconds", "1", *SIMULATED, "--out", "~/my clips"],
    ["doctor", "--no-transport"],
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_commands_in_a_home_folder_with_a_space_write_there(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ACTREC_", "ROS_LOG_DIR"))}
    variables = {**kept, "HOME": str(home), "USERPROFILE": str(home)}
    code = "import sys; from actrec.cli import main; sys.exit(main())"
    for arguments in COMMANDS:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for folder in ("~/.ros/log", "~/.cache/actrec"):
        assert re.search(rf"^  ok .* {folder}$", done.stdout, re.MULTILINE)
    assert read_video_info(home / "labeled clip.mp4").frames == 16
    with (home / "my windows.csv").open(newline="") as file:
        assert "wave" in {row["label"] for row in csv.DictReader(file)}
    assert (home / "my clips/wave_001/metadata.yaml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a home"]
