"""The files that repeat the version, the changelog and the packages; the content of a wheel; the ROS changelogs."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import actrec
from actrec.inference import zoo
from scripts import release

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel() -> dict[str, Any]:
    """Return the arguments that setup.py passes to setuptools when a wheel is built."""
    captured: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: captured.update(arguments))
        patch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
        runpy.run_path(str(ROOT / "setup.py"))
    return captured


def test_release_files_are_up_to_date() -> None:
    assert release.differing() == [], "run: python scripts/release.py"


def test_changelog_describes_the_version_for_users() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(actrec.__version__)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
    assert len(text.split()) <= 1000, "write for users, by theme; leave out faults that no release had"


def test_ros_changelogs_are_read_by_bloom() -> None:
    changelog = pytest.importorskip("catkin_pkg.changelog", reason="needs catkin_pkg, of colcon")
    for folder in (ROOT, ROOT / "ros2_ws/src/actrec_msgs"):
        read = changelog.get_changelog_from_path(str(folder))
        assert read.get_content_of_version(actrec.__version__)


def test_wheel_has_default_model_networks_and_one_command(wheel: dict[str, Any]) -> None:
    files = [Path(name) for _, names in wheel["data_files"] for name in names]
    assert {path.parent.name for path in files if path.parts[:2] == ("models", "zoo")} == {zoo.DEFAULT}
    assert set((ROOT / "models/perception").glob("*.onnx")) <= {ROOT / path for path in files}
    assert sum((ROOT / path).stat().st_size for path in files) < 60e6, "PyPI takes wheels up to 100 MB"
    assert wheel["entry_points"]["console_scripts"] == ["actrec = actrec.cli:main"]


def test_wheel_metadata_is_what_pypi_shows(wheel: dict[str, Any]) -> None:
    assert wheel["long_description"].startswith("# actrec") and wheel["project_urls"]
    assert {"live", "train", "view", "rtx"} <= set(wheel["extras_require"])
