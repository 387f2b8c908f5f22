"""The import rules of the packages, also for imports inside functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.structure import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
ROS = {"rclpy", "actrec_msgs", "sensor_msgs", "std_msgs", "geometry_msgs", "builtin_interfaces", "lifecycle_msgs"}
ROS |= {"diagnostic_msgs", "rcl_interfaces", "rosgraph_msgs", "launch", "launch_ros", "ament_index_python"}
TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning"}
FORBIDDEN = {
    "actrec": ROS | TORCH | {"actrec_nodes", "actrec_models", "actrec_calibration"},
    "actrec_nodes": TORCH | {"actrec_models"},
    "actrec_models": ROS | {"actrec_nodes"},
    "actrec_calibration": ROS | TORCH | {"actrec_nodes", "actrec_models"},
}


def imported(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield (top-level module, line, whether through importlib) for each import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], node.lineno, False
        elif isinstance(node, ast.Call) and _written_name(node):
            yield _written_name(node).split(".")[0], node.lineno, True


def _written_name(call: ast.Call) -> str:
    """Return the module in `import_module("...")` or `__import__("...")`; "" if it is not a literal."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    if function in {"import_module", "__import__"} and isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value
    return ""


def violations(package: str) -> list[str]:
    found = []
    for path in sorted((ROOT / FOLDERS[package]).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for module, line, by_name in imported(path):
            command_line = name.startswith("actrec/cli/") and by_name and module in FOLDERS
            if module in FORBIDDEN[package] and not command_line:
                found.append(f"{name}:{line} imports {module}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("package", FOLDERS)
def test_imports_stay_in_the_house_rules(package: str) -> None:
    assert violations(package) == []


def test_rule_sees_lazy_imports(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import torch.nn\n    importlib.import_module('rclpy.node')\n")
    assert list(imported(file)) == [("torch", 2, False), ("rclpy", 3, True)]


def test_importing_the_core_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    core = "actrec.cli, actrec.types, actrec.cameras, actrec.utils.config, actrec.recordings.image_decoding"
    code = f"import sys, {core}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"rclpy", "torch", "onnxruntime", "numba", "cupy", "tensorrt", "av"} & set(loaded.split())
    assert not heavy


@pytest.mark.slow
@pytest.mark.parametrize("package", FOLDERS)
def test_packages_do_not_import_benchmarks_or_tests(package: str) -> None:
    bench = ROOT / "actrec/cli/bench.py"
    files = (ROOT / FOLDERS[package]).rglob("*.py")
    modules = {name for path in files for name, _, by_name in imported(path) if not (by_name and path == bench)}
    assert not modules & {"benchmarks", "tests"}


@pytest.mark.parametrize("module", ["actrec.inference", "benchmarks.inference"])
def test_imports_of_inference_stay_light(module: str) -> None:
    """A robot imports it at every start, some without PyTorch or ROS."""
    heavy = ("scipy", "torch", "rclpy", "numba", "cv2")
    code = f"import sys, {module}; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
