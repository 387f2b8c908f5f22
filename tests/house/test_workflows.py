"""The workflows for a public forge name scripts, targets, extras and paths that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
WRITTEN = {
    "build/site": "mkdocs.yml",
    "coverage.txt": ".github/workflows/ci.yml",
    "coverage.xml": "scripts/coverage_by_package.py",
}
"""Paths that a step writes, each with the file that chooses its name."""
SUFFIXES = "cff|in|md|py|sh|txt|xml|yaml|yml"
PATH = re.compile(rf"(?<![\w$}}/.@-])(?:[\w.-]+(?:/[\w.*-]+)+|[\w.-]+\.(?:{SUFFIXES})\b)")


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of all texts of a workflow."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from texts(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from texts(value, key)
    elif isinstance(node, str):
        yield key, node


def missing(text: str) -> set[str]:
    """Return the paths, targets of make and extras in a text that do not exist."""
    makefile, setup = (ROOT / "Makefile").read_text(encoding="utf-8"), (ROOT / "setup.py").read_text(encoding="utf-8")
    found = {path for path in PATH.findall(text) if not any(ROOT.glob(path)) and path not in WRITTEN}
    found |= {name for name in re.findall(r"\bmake ([a-z][\w-]*)", text) if not re.search(rf"^{name}:", makefile, re.M)}
    extras = [
        name
        for names in re.findall(r"\.\[([\w,]+)\]|EXTRAS=['\"]([\w ]+)", text)
        for name in re.findall(r"\w+", "".join(names))
    ]
    return found | {name for name in extras if f'    "{name}": [' not in setup}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_names_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "permissions", "jobs"} <= set(workflow)
    checked = [text for key, text in texts(workflow) if key not in ("uses", "if", "container")]
    assert {text: found for text in checked if (found := missing(text))} == {}
    for name in (name for job in workflow["jobs"].values() for name in [job.get("needs")] if name):
        assert name in workflow["jobs"]


@pytest.mark.parametrize("name", [".ci/run", "scripts/ci_ros.sh"])
def test_script_of_a_workflow_names_what_exists(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert missing("\n".join(line for line in lines if re.match(r" *make ", line))) == set()


def test_writers_of_paths_that_workflows_use_name_them() -> None:
    for path, writer in WRITTEN.items():
        assert path in (ROOT / writer).read_text(encoding="utf-8")


def test_missing_finds_wrong_paths_targets_and_extras() -> None:
    name = "none"  # no file of this name exists
    text = f"pip install -e '.[live,nothing]' -r requirements/none.txt && make wheels; sh scripts/{name}.sh"
    assert missing(text) == {"requirements/none.txt", "wheels", f"scripts/{name}.sh", "nothing"}
    assert missing("make build EXTRAS='live others'") == {"others"}
