"""Commands, options, variables, settings and tools that messages and documents name exist: a remedy must work."""

import argparse
import ast
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from actrec import cli
from benchmarks import BENCHMARKS
from tests.documents import commands, documents
from tests.house.structure import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
TOLD = {"warning", "error", "complain", "warn", "info", "append", "ConfigError", "DeviceError", "InputError", "Finding"}
"""Functions whose texts a user reads, and errors that a function returns."""

HOLE = "…"
"""Replaces a value in an f-string."""

COMMAND = re.compile(
    r"(?:^|(?<=[`'(])|(?<=[:,;] )|(?<=run )|(?<=with )|(?<=  ))actrec ([a-z][a-z-]*)"
    r"((?: +[\w./*<>'\[\]=:~…-]+(?=[ `')]|$))*)"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
VARIABLE = re.compile(r"\b(?:ACTREC|ROS|XDG|NUMBA|FASTRTPS|FASTDDS|RMW|AMENT)_[A-Z_]+\b|\bTMPDIR\b")
SETTING = re.compile(
    r"(?:options?|parameter|setting|field|set|give) '?([a-z]+(?:_[a-z0-9]+)+)|(?<![\w./])([a-z]+(?:_[a-z0-9]+)+)="
)
WORD = re.compile(r"(?<![\w./$<{+-])([a-z]+(?:_[a-z0-9]+)+)(?![\w/(-]|\.\w)")
MAKE = re.compile(r"(?:: |or |`)make (?!room)([a-z]+)(?: ([a-z]+))?(?= (?:EXTRAS|PYTHON|&&)|[,)`]|$)")
EXTRA = re.compile(r"actrec\[(\w+)\]")
TOOL = re.compile(r"`(rosbags-convert|[a-z]+-[a-z-]+) ")

OTHERS = {
    "--ros-args": "ROS", "--ipc": "Docker", "--shm-size": "Docker", "--no-deps": "pip", "--user": "pip",
    "--prefix": "pip", "--upgrade": "pip", "--nproc_per_node": "torchrun", "--logdir": "TensorBoard",
    "--src": "rosbags", "--dst": "rosbags", "--params-file": "ROS", "--log-level": "ROS", "--query-gpu": "nvidia-smi",
    "--format": "nvidia-smi", "--reload": "udevadm", "--memory-limit": "dask",
}  # fmt: skip
"""Options of other programs."""

WORDS = {
    "align_depth": "realsense2_camera", "publish_tf": "realsense2_camera", "base_link": "REP-105", "actrec_models": "",
    "base_footprint": "REP-120", "c_min": "DeepActsNet", "c_max": "DeepActsNet",
}  # fmt: skip
"""Names of other programs."""

READ_BY_OTHERS = {
    "ROS_LOG_DIR", "ROS_HOME", "ROS_DOMAIN_ID", "ROS_LOCALHOST_ONLY", "ROS_DISTRO", "AMENT_PREFIX_PATH", "TMPDIR",
    "RMW_IMPLEMENTATION", "NUMBA_CACHE_DIR", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
}  # fmt: skip
"""Variables of ROS, its middleware, Python and numba."""


@cache
def code() -> dict[str, list[ast.AST]]:
    """Return the syntax nodes of each module."""
    files = [file for folder in FOLDERS.values() for file in sorted((ROOT / folder).rglob("*.py"))]
    return {str(f.relative_to(ROOT)): list(ast.walk(ast.parse(f.read_text(encoding="utf-8")))) for f in files}


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def messages(errors: bool = False) -> list[tuple[str, str]]:
    """Return (file and line, text) of each text with a space in the code, or only of raised errors and log lines."""
    found = []
    for file, nodes in code().items():
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        if errors:
            told = [
                n for n in nodes if isinstance(n, ast.Raise) or (isinstance(n, ast.Call) and name_of(n.func) in TOLD)
            ]
            nodes = [part for node in told for part in ast.walk(node)]
        for node in nodes:
            if id(node) not in skipped and " " in (text := text_of(node)):
                found.append((f"{file}:{getattr(node, 'lineno', 0)}", text))
    return found


def name_of(function: ast.expr) -> str:
    """Return the last part of a called function's name."""
    return str(getattr(function, "attr", getattr(function, "id", "")))


def matches(pattern: re.Pattern[str], errors: bool = False) -> Iterator[tuple[str, re.Match[str]]]:
    for place, text in messages(errors):
        for match in pattern.finditer(text):
            yield place, match


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command and subcommand, by name: "calibrate floor"."""
    found: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, parser: argparse.ArgumentParser) -> None:
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child, sub in action.choices.items():
                    add(f"{name} {child}", sub)

    for name, (module, _) in cli.COMMANDS.items():
        parser = cli.Parser(name)
        importlib.import_module(module).add_arguments(parser)
        add(name, parser)
    return found


def options_of(*names: str) -> set[str]:
    return {
        option for name in names or parsers() for action in parsers()[name]._actions for option in action.option_strings
    }


@cache
def settings() -> set[str]:
    """Return the names of dataclass fields, function parameters and options: all that a user can set."""
    names = {option.lstrip("-").replace("-", "_") for option in options_of()}
    for nodes in code().values():
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                names |= {
                    part.target.id
                    for part in node.body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
                }
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return names


@pytest.mark.slow
def test_commands_in_messages_exist_with_their_options() -> None:
    wrong = []
    for place, match in matches(COMMAND):
        command, words = match[1], match[2].split()
        if command not in cli.COMMANDS:
            wrong.append(f"{place}: actrec {command}")
            continue
        name = f"{command} {words[0]}" if words and f"{command} {words[0]}" in parsers() else command
        known = options_of(command, name) if command != "bench" else set(OPTION.findall(match[2]))
        if command == "bench" and words and words[0] not in (*BENCHMARKS, HOLE, "NAME") and words[0][0] != "-":
            wrong.append(f"{place}: actrec bench {words[0]}")
        own = words[: words.index("--ros-args")] if "--ros-args" in words else words
        wrong += [f"{place}: actrec {name} {o}" for o in OPTION.findall(" ".join(own)) if o not in known]
    assert wrong == []


def test_options_in_messages_exist() -> None:
    known = options_of() | set(OTHERS)
    benchmarks = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py"))
    wrong = {f"{place}: {match[0]}" for place, match in matches(OPTION) if match[0] not in known}
    assert {line for line in wrong if f'"{line.split()[-1]}"' not in benchmarks} == set()


def test_variables_in_messages_are_read() -> None:
    read = {text_of(node) for nodes in code().values() for node in nodes} | READ_BY_OTHERS
    assert {f"{place}: {match[0]}" for place, match in matches(VARIABLE) if match[0] not in read} == set()


def test_settings_in_messages_exist() -> None:
    wrong = {
        f"{place}: {m[1] or m[2]}"
        for place, m in matches(SETTING, True)
        if (m[1] or m[2]) not in settings() | set(WORDS)
    }
    assert wrong == set()


def test_names_in_messages_exist() -> None:
    names = settings() | set(WORDS)
    for nodes in code().values():
        for node in nodes:
            names |= {str(getattr(node, key)) for key in ("id", "attr", "name", "arg") if hasattr(node, key)}
            names |= set(re.findall(r"\w+", text)) if " " not in (text := text_of(node)) else set()
    assert {f"{place}: {match[0]}" for place, match in matches(WORD, True) if match[0] not in names} == set()


def test_make_targets_and_extras_in_messages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    extras = re.findall(r'^\s+"(\w+)": \[', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
    wrong = {
        f"{place}: make {word}" for place, m in matches(MAKE) for word in m.groups() if word and word not in targets
    }
    wrong |= {f"{place}: actrec[{m[1]}]" for place, m in matches(EXTRA) if m[1] not in extras}
    assert wrong == set()


def test_tools_in_messages_are_installed_with_actrec() -> None:
    scripts = {point.name for point in importlib.metadata.entry_points(group="console_scripts")}
    assert {f"{place}: {m[1]}" for place, m in matches(TOOL) if m[1] not in scripts} == set()


def test_commands_in_documents_exist_with_their_options() -> None:
    wrong = []
    for name, text in documents().items():
        for command in commands(text) if not name.startswith(("CHANGELOG.md", "models/zoo/")) else ():
            verb, words_ = command[0], command[1:]
            own = words_[: words_.index("--ros-args")] if "--ros-args" in words_ else words_
            if verb not in (*cli.COMMANDS, "COMMAND", "--help"):
                wrong.append(f"{name}: actrec {verb}")
            elif verb == "bench":
                wrong += [f"{name}: actrec bench {own[0]}"] * (bool(own) and own[0] not in (*BENCHMARKS, "NAME"))
            elif verb in cli.COMMANDS:
                parts = [verb] if not own or f"{verb} {own[0]}" not in parsers() else [verb, f"{verb} {own[0]}"]
                known = options_of(*parts)
                wrong += [
                    f"{name}: actrec {verb} {word}"
                    for word in own
                    if word.startswith("--") and word.split("=")[0] not in known
                ]
    assert wrong == []


def test_messages_in_troubleshooting_exist() -> None:
    """Each quoted message is a text of the code, with values in place of "…"."""
    told = [re.sub(f"{HOLE}+", HOLE, " ".join(text.split())) for _, text in messages()]
    rows = re.findall(r"^\| `([^`]*…[^`]*)`", documents()["docs/troubleshooting.md"], re.MULTILINE)
    assert len(rows) >= 20
    pieces = [[piece.strip() for piece in row.split(HOLE) if len(piece.strip()) > 3] for row in rows]
    missing = [row for row, parts in zip(rows, pieces, strict=True)
               if not all(any(part in text for text in told) for part in parts)]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize(
    ("pattern", "count"),
    [(COMMAND, 30), (OPTION, 100), (VARIABLE, 15), (SETTING, 15), (MAKE, 8), (EXTRA, 5), (TOOL, 2)],
)
def test_messages_with_remedies_are_found(pattern: re.Pattern[str], count: int) -> None:
    """The checks above see many messages, not none."""
    assert len(list(matches(pattern))) >= count
