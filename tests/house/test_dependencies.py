"""Each import of another package is installed by package.xml (rosdep) or by an extra of setup.py (pip)."""

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actrec", "nodes", "calibration")  # all that runs on a robot
OWN = {"actrec", "actrec_nodes", "actrec_models", "actrec_calibration", "benchmarks"}

ROSDEP = {
    "cv2": "python3-opencv",
    "fpdf": "python3-fpdf2-pip",
    "google": "python3-protobuf",
    "numba": "python3-numba",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "psutil": "python3-psutil",
    "pyrealsense2": "python3-pyrealsense2-pip",
    "rosbags": "python3-rosbags-pip",
    "scipy": "python3-scipy",
    "tf2_ros": "tf2_ros_py",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
"""Module to its key in rosdep's database (ros/rosdistro, rosdep/python.yaml); a ROS package's key is its name."""

PIP = {
    "cuda": "cuda-bindings",
    "PIL": "pillow",
    "tensorrt": "tensorrt-cu13-bindings",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
    "rerun": "rerun-sdk",
}
"""Module to its distribution on PyPI if they differ, of modules without a key: `make venv` installs them."""

COMES_WITH = {"lz4": "rosbags", "zstandard": "rosbags", "PIL": "fpdf2"}

FROM_THE_DEVICE = {"cupy", "pycuda", "pykinect_azure"}
"""Libraries of JetPack, or with an own requirement in requirements/no_deps: an error names the way to install them."""


def imported() -> dict[str, list[str]]:
    """Return the modules of other packages that the folders import, by any kind of import, with the files."""
    found: dict[str, list[str]] = {}
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                names = [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
            for name in names:
                root = name.split(".")[0]
                if root not in sys.stdlib_module_names and root not in OWN:
                    found.setdefault(root, []).append(str(path.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Return the packages that package.xml names as needed at run time."""
    tree = ElementTree.parse(ROOT / "package.xml")
    return {element.text or "" for tag in ("depend", "exec_depend") for element in tree.iter(tag)}


@pytest.fixture(scope="module")
def requirements() -> set[str]:
    """Return the distributions that setup.py requires, with all extras."""
    captured: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: captured.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    texts = [*captured["install_requires"], *(text for extra in captured["extras_require"].values() for text in extra)]
    return {canonicalize_name(Requirement(text).name) for text in texts}


def test_imports_are_declared_in_package_xml_or_setup_py(keys: set[str], requirements: set[str]) -> None:
    missing = {}
    for module, files in imported().items():
        key = ROSDEP.get(module, module)
        distribution = canonicalize_name(COMES_WITH.get(module, PIP.get(module, module)))
        if key not in keys and distribution not in requirements and module not in FROM_THE_DEVICE:
            missing[module] = files
    assert missing == {}, "add a key to package.xml, or a requirement to setup.py if rosdep has none"


def test_modules_with_a_rosdep_key_have_it_in_package_xml(keys: set[str]) -> None:
    modules = set(imported())
    assert {ROSDEP[module] for module in modules if module in ROSDEP} <= keys
    assert set(ROSDEP) <= modules, "a module that is no longer imported"


@pytest.mark.slow
def test_package_xml_keys_are_used(keys: set[str]) -> None:
    modules = imported()
    used = {ROSDEP.get(module, module) for module in modules}
    launch = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "launch").glob("*.py"))
    used |= set(re.findall(r"^from (\w+)", launch, re.MULTILINE))
    assert keys - used == {"ros2launch", "python3-setuptools"}, "the command `ros2 launch`, and the entry points"
