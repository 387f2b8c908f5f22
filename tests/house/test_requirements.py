"""The exact versions in requirements/ lie within the ranges of setup.py."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
SETS = [f"constraints/{path.name}" for path in sorted((FOLDER / "constraints").glob("*.txt"))]


def read(name: str) -> list[Requirement]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    stripped = [line.split("#")[0].strip() for line in lines]
    return [Requirement(line) for line in stripped if line]


def pins(*names: str) -> dict[str, list[str]]:
    """Return the pinned versions by canonical name, one for each marker, or for each set if it is open."""
    versions: dict[str, list[str]] = {}
    for name in names:
        for requirement in read(name):
            key = canonicalize_name(requirement.name)
            if not requirement.specifier:
                versions[key] = [version for constraints in SETS for version in pins(constraints)[key]]
                continue
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{name}: {requirement} is not pinned"
            versions.setdefault(key, []).append(specifier.version)
    return versions


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    captured: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: captured.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return captured


@pytest.mark.parametrize("extra", ["core", "live", "train", "dev", "rtx", "view", "docs"])
def test_pins_lie_in_the_ranges(extra: str, setup: dict[str, Any]) -> None:
    ranges = setup["install_requires"] if extra == "core" else setup["extras_require"][extra]
    pinned = pins(f"{extra}.txt")
    for text in ranges:
        requirement = Requirement(text)
        versions = pinned[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_videos_need_the_rotation_of_frames(setup: dict[str, Any]) -> None:
    """PyAV has it since 14.1."""
    (av,) = (found for text in setup["install_requires"] if (found := Requirement(text)).name == "av")
    assert [av.specifier.contains(version) for version in ("14.0.1", "14.1.0")] == [False, True]


def test_requirements_pin_one_version_of_each_package() -> None:
    """Several files may pin a package that their extras share."""
    found: dict[str, list[str]] = {}
    for path in FOLDER.glob("*.txt"):
        for name, versions in pins(path.name).items():
            assert found.setdefault(name, versions) == versions, name


def test_constraints_sets_have_the_numpy_of_their_distribution() -> None:
    majors = {Path(name).stem: pins(name)["numpy"][0].split(".")[0] for name in SETS}
    assert majors == {"humble": "1", "jazzy": "1", "lyrical": "2", "wheels": "2"}


def test_requirements_install_one_opencv() -> None:
    """Two OpenCV wheels overwrite each other's cv2."""
    names = pins(*(path.name for path in FOLDER.glob("*.txt")))
    assert [name for name in names if name.startswith("opencv")] == ["opencv-contrib-python"]
