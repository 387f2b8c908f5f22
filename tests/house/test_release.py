"""The files that repeat the version, the changelog and the packages; the content of a wheel; the ROS changelogs."""

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import actrec
from actrec.inference import zoo
from actrec.utils import folders
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


def test_wheel_has_two_models_networks_and_one_command(wheel: dict[str, Any]) -> None:
    files = [Path(name) for _, names in wheel["data_files"] for name in names]
    models = {path.parent.name for path in files if path.parts[:2] == ("models", "zoo")}
    assert models == {zoo.DEFAULT, "joint_tcn_open"}  # the second may be used for anything
    assert set(re.findall(r"^graft models/zoo/(\w+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)) == models
    assert set((ROOT / "models/perception").glob("*.onnx")) <= {ROOT / path for path in files}
    assert sum((ROOT / path).stat().st_size for path in files) < 80e6, "PyPI takes wheels up to 100 MB"
    assert wheel["entry_points"]["console_scripts"] == ["actrec = actrec.cli:main"]


def test_notice_names_the_models_of_the_wheel(wheel: dict[str, Any]) -> None:
    inside = {Path(folder).name for folder, _ in wheel["data_files"] if "/models/zoo/" in f"/{folder}"}
    assert len(inside) == 2 and all(name in (ROOT / "NOTICE").read_text() for name in inside)


def test_wheel_files_suffice_to_record_skeletons_without_ros(
    wheel: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rosbags", reason="bags need rosbags: pip install 'actrec[live]'")
    from actrec.recordings.rosbag import bag_writer

    for folder, names in wheel["data_files"]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in (name for name in names if name.endswith(".msg")):
            shutil.copy(ROOT / name, tmp_path / folder)
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "lib/python3/site-packages/actrec/utils/folders.py"))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    caches = bag_writer.typestore_with, bag_writer._definition
    for cached in caches:
        cached.cache_clear()
    try:
        with bag_writer.BagWriter(tmp_path / "bag") as bag:
            bag.write_bodies(bag_writer.SKELETONS_TOPIC, 1, "camera", [])
    finally:
        for cached in caches:
            cached.cache_clear()
    assert bag.counts == {bag_writer.SKELETONS_TOPIC: 1}


def test_wheel_metadata_is_what_pypi_shows(wheel: dict[str, Any]) -> None:
    assert wheel["long_description"].startswith("# actrec") and wheel["project_urls"]
    links = re.findall(r'\]\(([^)]+)|src="([^"]+)', wheel["long_description"])
    assert links and all(re.match(r"https://", link or source) for link, source in links), "PyPI has no other files"
    assert {"live", "train", "view", "rtx"} <= set(wheel["extras_require"])


def test_release_refuses_addresses_that_are_examples() -> None:
    """A tag publishes them: in the description on PyPI, and for reports of vulnerabilities."""
    workflow = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert (
        "! grep -n 'actrec[.]example' package.xml ros2_ws/src/actrec_msgs/package.xml SECURITY.md CITATION.cff"
        in workflow
    )
    assert "actrec.example" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "who releases reads it there"


def test_lines_end_alike_in_every_clone() -> None:
    """The manifest holds sizes and hashes of texts, and shells do not read carriage returns."""
    assert (ROOT / ".gitattributes").read_text(encoding="utf-8").startswith("* text=auto eol=lf\n")
