"""The layout rules: folders, directions of imports, the command line, names, machine paths."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.house.structure import FOLDERS, Structure

ROOT = Path(__file__).resolve().parents[2]
STRUCTURE = Structure(ROOT)
ORDER = [
    {"types", "utils"},
    {"skeleton"},
    {"recordings"},
    {"simulation", "datasets"},
    {"cameras"},
    {"scene_flow", "features"},
    {"inference"},
    {"perception"},
    {"recognition"},
    {"explanation", "visualization"},
    {"cli", "__main__"},
]
"""Sub-packages of actrec, lowest level first; each imports only from its own and lower levels."""
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
MOST_ENTRIES = 12
FLAT = {"actrec", "actrec/cli", "actrec/datasets", "models/actrec_models/networks"}
"""Folders with an entry for each command, dataset, network or part of the core."""
SHARED_NAMES = {
    "base.py": "the base classes of the package around it",
    "camera.py": "the driver in the folder of its vendor",
    "gravity.py": "mountings and level axes, and the estimation from people",
    "registry.py": "how names are found, and the networks by name",
    "run.py": "the command and the graph that it starts",
    "skeleton.py": "the features of skeletons, and the layers of their networks",
    "video.py": "recordings of video, and the layers of video networks",
    "Attention": "the attention of P-I3D and of VPN, each as in its paper",
}
"""Names that several modules or classes have, with the reason."""
ENTRY_POINTS = {"main", "spin"}
"""Functions of nodes that run as a separate process and print its result or error."""
MACHINE = re.compile(r"/home/\w+/|/root/\w|/work/(?:main|shared)|\.\./shared|find-links|index-url")


def test_folders_have_few_entries() -> None:
    assert {f: n for f, n in STRUCTURE.entries().items() if n > MOST_ENTRIES and f not in FLAT} == {}


@pytest.mark.slow
def test_subpackages_import_downwards_only() -> None:
    violations = []
    for name, imported in STRUCTURE.imports.items():
        if not name.startswith("actrec."):
            continue
        own = name.split(".")[1]
        for other in imported:
            target = other.split(".")[1] if other.startswith("actrec.") else own
            if LEVEL[target] > LEVEL[own]:
                violations.append(f"{name} imports {other}")
    assert violations == []


def test_subpackages_do_not_import_each_other() -> None:
    assert STRUCTURE.package_cycles() == [["actrec.types", "actrec.utils"]], "types and utils are one level"


def test_modules_do_not_import_in_a_circle() -> None:
    assert STRUCTURE.cycles() == []


def test_names_of_modules_and_classes_are_unique_or_have_a_reason() -> None:
    repeated = STRUCTURE.duplicate_modules() | STRUCTURE.duplicate_classes()
    assert {name: modules for name, modules in repeated.items() if name not in SHARED_NAMES} == {}


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_argparse_and_print_are_in_the_command_line_only(folder: str) -> None:
    found = []
    for name, path in STRUCTURE.files.items():
        if not path.is_relative_to(ROOT / folder) or name.startswith(("actrec.cli", "actrec.__main__")):
            continue
        nodes = name.startswith("actrec_nodes.")
        entries = [n for n in STRUCTURE.trees[name].body if isinstance(n, ast.FunctionDef) and n.name in ENTRY_POINTS]
        allowed = {id(inner) for entry in entries for inner in ast.walk(entry)} if nodes else set()
        for node in ast.walk(STRUCTURE.trees[name]):
            imports = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imports += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if "argparse" in imports or (prints and id(node) not in allowed):
                found.append(f"{name}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_tracked_files_name_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__) or not path.is_file() or path.suffix in {".onnx", ".safetensors", ".npz"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert found == []
