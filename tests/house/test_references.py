"""Modules and files mentioned in documents and docstrings exist."""

import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\bactrec(?:_models|_nodes|_calibration)?(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(
    r"(?<![\w/.-])((?:actrec|models|nodes|calibration|benchmarks|tests|docs|config|launch|deploy|scripts)"
    r"/[\w./-]+\.(?:py|md|yaml|csv|sh))"
)
OTHER = {
    "actrec.env": "environment file of the Jetson service",
    "actrec.service": "systemd unit",
    "actrec.service.d": "folder with settings of this unit",
    "actrec.example": "domain of a mail address",
    "actrec.rviz": "layout of RViz in config",
    "docs/operators.md": "a page of onnx-tensorrt",
    "config/VENDOR.yaml": "placeholder",
    "scripts/wheels_setup.sh": "template with the suffix .in",
}
"""Matches of the patterns that are no modules or files of this project."""


def _texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    suffixes = {".md", ".py", ".yaml", ".toml", ".cfg", ".xml", ".sh", ".service"}
    names = [name for name in listed if Path(name).suffix in suffixes and name != "CHANGELOG.md"]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


@cache
def _exists(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(target, attribute):
                return attribute in getattr(target, "__annotations__", {})
            target = getattr(target, attribute)
        return True
    return False


def test_dotted_names_exist() -> None:
    missing = {
        f"{file}: {match}"
        for file, text in _texts().items()
        for match in NAME.findall(text)
        if match not in OTHER and "NAME" not in match and not _exists(match)
    }
    assert missing == set()


def test_paths_of_files_exist() -> None:
    missing = {
        f"{file}: {match}"
        for file, text in _texts().items()
        for match in PATH.findall(text)
        if match not in OTHER and "NAME" not in match
        if not (ROOT / match).exists() and not (ROOT / file).parent.joinpath(match).exists()
    }
    assert missing == set()
