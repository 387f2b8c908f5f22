"""setup.py, package.xml and the requirements agree with the files on disk, and modules stay small."""

import ast
import configparser
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml

import actrec

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["actrec", "nodes/actrec_nodes", "models/actrec_models", "calibration/actrec_calibration"]
LONGEST_MODULE = 500


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    """Return the arguments that setup.py passes to setuptools."""
    captured: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: captured.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return captured


def folder_of(package: str, setup: dict[str, Any]) -> Path:
    top, *rest = package.split(".")
    return Path(ROOT, setup["package_dir"].get(top, top), *rest)


def test_package_list_equals_the_disk(setup: dict[str, Any]) -> None:
    existing = set()
    for source in SOURCES:
        for path in (ROOT / source).rglob("__init__.py"):
            existing.add(".".join(path.parent.relative_to((ROOT / source).parent).parts))
    assert sorted(setup["packages"]) == sorted(existing)


def test_folders_with_modules_are_packages() -> None:
    folders = {path.parent for source in SOURCES for path in (ROOT / source).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_version_is_the_same_everywhere(setup: dict[str, Any]) -> None:
    manifests = [ROOT / "package.xml", ROOT / "ros2_ws/src/actrec_msgs/package.xml"]
    versions = {ElementTree.parse(path).getroot().findtext("version") for path in manifests}
    assert versions | {setup["version"], actrec.__version__} == {actrec.__version__}


def test_imported_ros_packages_are_dependencies() -> None:
    """Optional packages imported by name count too, as `rosdep install` reads only this list."""
    source = "\n".join(path.read_text() for path in [*ROOT.glob("nodes/**/*.py"), *ROOT.glob("launch/*.py")])
    optional = {"tf2_ros_py" if name == "tf2_ros" else name for name in re.findall(r'import_module\("(\w+)', source)}
    imported = {*re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE), *optional}
    ros = {name for name in imported if name.endswith(("_msgs", "_interfaces")) or name.startswith(("tf2", "launch"))}
    declared = {element.text for element in ElementTree.parse(ROOT / "package.xml").getroot().iter("exec_depend")}
    assert ros - declared == set()


@pytest.mark.parametrize("folder", ["launch", "config"])
def test_launch_and_config_files_are_installed(folder: str, setup: dict[str, Any]) -> None:
    existing = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).iterdir() if path.is_file()}
    installed = {name for target, names in setup["data_files"] for name in names if target == f"share/actrec/{folder}"}
    assert existing
    assert installed == existing


@pytest.mark.parametrize("folder", ["models/zoo", "models/recipes"])
def test_setup_installs_packages_and_recipes(folder: str, setup: dict[str, Any]) -> None:
    existing = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    targets = {name: target for target, names in setup["data_files"] for name in names if folder in target}
    assert set(targets) == existing
    assert all(target == f"share/actrec/{Path(name).parent.as_posix()}" for name, target in targets.items())


def test_files_that_packages_read_are_installed(setup: dict[str, Any]) -> None:
    missing = []
    for package in setup["packages"]:
        folder = folder_of(package, setup)
        installed = {path for pattern in setup["package_data"][package] for path in folder.glob(pattern)}
        files = {path for path in folder.iterdir() if path.is_file() and path.suffix not in {".py", ".md", ".pyc"}}
        missing += [path.name for path in files - installed]
    assert missing == []


def test_console_scripts_resolve(setup: dict[str, Any]) -> None:
    for script in setup["entry_points"]["console_scripts"]:
        target = script.split("=")[1].strip()
        module, function = target.split(":")
        package, _, name = module.rpartition(".")
        path = folder_of(package or module, setup)
        file = path / f"{name}.py" if (path / f"{name}.py").is_file() else folder_of(module, setup) / "__init__.py"
        functions = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert function in functions, script


def test_executables_go_where_ros2_run_looks() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["install"]["install_scripts"] == config["develop"]["script_dir"] == "$base/lib/actrec"


def test_modules_are_within_the_longest_length() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for source in [*SOURCES, "tests", "launch", "scripts"]
        for path in (ROOT / source).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_workspace_names_both_packages() -> None:
    for path, folder in [
        (ROOT / "colcon_defaults.yaml", ROOT),
        (ROOT / "ros2_ws/colcon_defaults.yaml", ROOT / "ros2_ws"),
    ]:
        defaults = yaml.safe_load(path.read_text())
        for command in ("build", "test", "list", "graph"):
            bases = {(folder / base).resolve() for base in defaults[command]["base-paths"]}
            assert bases == {ROOT, ROOT / "ros2_ws" / "src"}, (path, command)
