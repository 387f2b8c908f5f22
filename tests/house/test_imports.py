"""The import rules of the house: who may import whom, also inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "actrec": ROOT / "actrec",
    "actrec_nodes": ROOT / "nodes" / "actrec_nodes",
    "actrec_models": ROOT / "models" / "actrec_models",
    "actrec_calibration": ROOT / "calibration" / "actrec_calibration",
}
ROS = {"rclpy", "actrec_msgs", "sensor_msgs", "std_msgs", "geometry_msgs", "builtin_interfaces", "lifecycle_msgs"}
ROS |= {"diagnostic_msgs", "rcl_interfaces", "rosgraph_msgs", "launch", "launch_ros", "ament_index_python"}
TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning"}
FORBIDDEN = {
    "actrec": ROS | TORCH | {"actrec_nodes", "actrec_models", "actrec_calibration"},
    "actrec_nodes": TORCH | {"actrec_models"},
    "actrec_models": ROS | {"actrec_nodes"},
    "actrec_calibration": ROS | TORCH | {"actrec_nodes", "actrec_models"},
}
# An installed distribution is found through its index; nothing else of ROS is touched there.
ALLOWED = {("actrec/zoo.py", "ament_index_python"), ("actrec/diagnosis/software.py", "ament_index_python")}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every top-level module that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], node.lineno
        elif _imports_by_name(node):
            yield node.args[0].value.split(".")[0], node.lineno  # type: ignore[attr-defined]


def _imports_by_name(node: ast.AST) -> bool:
    """Whether it is import_module("...") or __import__("...") with the name written out."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return False
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return function in {"import_module", "__import__"} and isinstance(node.args[0].value, str)


def violations(package: str) -> list[str]:
    found = []
    for path in sorted(FOLDERS[package].rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        # The command line reaches the other packages by name, which `importlib.import_module("...")` is.
        by_name = {"actrec_nodes", "actrec_models", "actrec_calibration"} if name.startswith("actrec/cli/") else set()
        statements = {
            alias.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for alias in _statement_names(node)
        }
        for module, line in imported(path):
            excused = (name, module) in ALLOWED or (module in by_name and module not in statements)
            if module in FORBIDDEN[package] and not excused:
                found.append(f"{name}:{line} imports {module}")
    return found


def _statement_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_stay_in_the_house_rules(package: str) -> None:
    assert violations(package) == []


def test_rule_sees_lazy_imports(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import torch.nn\n    importlib.import_module('rclpy.node')\n")
    assert list(imported(file)) == [("torch", 2), ("rclpy", 3)]


def test_importing_the_core_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, actrec, actrec.cli, actrec.frames, actrec.capture, actrec.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"rclpy", "torch", "mediapipe", "onnxruntime", "numba", "cupy", "tensorrt", "av"} & set(loaded.split())
    assert not heavy
