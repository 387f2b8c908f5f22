"""The command line `actrec`: a table of commands, each imported only when it is called.

A command is a module `actrec.cli.<name>` with `add_arguments(parser)` and `run(args) -> int`. Exit statuses: 0 done,
1 failed, 2 wrong use, 130 interrupted.
"""

import argparse
import errno
import importlib
import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from actrec import __version__
from actrec.utils.errors import ActrecError, ConfigError
from actrec.utils.threads import single_threaded_blas

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("actrec.cli.run", "run the whole graph in one process, from camera to /action_label"),
    "simulate": ("actrec.cli.simulate", "render the simulated actor to a folder of images or a video"),
    "calibrate": ("actrec.cli.calibrate", "calibrate a camera's lens, its depth and its place on the robot"),
    "record": ("actrec.cli.record", "record topics, or labeled clips of your own actions, to rosbag2 files"),
    "view": ("actrec.cli.view", "show a running graph, a camera or a recording in 3-D"),
    "models": ("actrec.cli.models", "list, check and describe model packages"),
    "prepare": ("actrec.cli.prepare", "read a dataset once into a store from which training reads fast"),
    "train": ("actrec.cli.train", "train a network on a dataset"),
    "eval": ("actrec.cli.eval", "score a model package or a checkpoint on a dataset"),
    "teach": ("actrec.cli.teach", "learn actions of your own from recordings of them"),
    "export": ("actrec.cli.export", "export a trained network to a model package"),
    "quantize": ("actrec.cli.quantize", "add the network in int8 to a model package"),
    "build-engine": ("actrec.cli.build_engine", "build the TensorRT engine of a model package, on the robot"),
    "bench": ("actrec.cli.bench", "measure one part of the graph, or all of it"),
    "doctor": ("actrec.cli.doctor", "check what is installed and connected, and how to mend what is missing"),
}

DESCRIPTION = "From an RGB-D camera to action labels. 'actrec COMMAND --help' explains a command, with an example."

EPILOG = """\
Example:
  actrec run --driver simulated --duration 20
  actrec doctor
"""

REMEDIES = {
    "actrec_msgs": "build the messages and load them: make build && . scripts/env.sh",
    "actrec_nodes": "install the package: make build",
    "actrec_models": "install the package: make build",
    "lightning": "pip install 'actrec[train]', or: make venv EXTRAS='live train'",
    "rclpy": "source a ROS 2 distribution, or: make venv build && . scripts/env.sh",
    "torch": "pip install 'actrec[train]', or: make venv EXTRAS='live train'",
}
"""What to do when a command's import of a top-level module fails."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, or of a full quota: every command reports them alike."""


class Parser(argparse.ArgumentParser):
    """Reports wrong use in one line, as every other error is reported.

    Options are not known by their beginnings: what `--out` alone names today would be two once `--output-...` is added.
    """

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Print `message` with where help is, and exit with 2."""
        self.exit(2, f"actrec: {message} (see: {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: The arguments after the program's name; by default the process's own.
    """
    single_threaded_blas()  # before any command imports numpy
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without "→" and "°" is no reason to fail
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        command = _import(name) if name in COMMANDS else None
        parser = _parser(name, command)
        if not arguments:
            parser.print_help()
            return 0
        args = parser.parse_args(arguments)
        if command is None:
            parser.error(f"name a command: {', '.join(COMMANDS)}")
        status = command.run(args)
        if sys.stdout is not None:  # closed by the shell: `>&-`
            sys.stdout.flush()
        return status
    except ConfigError as error:
        return _fail(error, 2)
    except ActrecError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _settle_stdout()  # the reader (head, less) left
        return 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        _settle_stdout()
        return _fail(f"{error.filename or 'the output'}: {error.strerror}; make room and try again", 1)
    except ImportError as error:
        # Of a compiled module that does not load the name lacks the package's, which its path has.
        parts = [(error.name or "").split(".")[0], *Path(error.path or "").parts]
        library = next((part for part in reversed(parts) if part in REMEDIES), None)
        if library is None:
            raise
        if isinstance(error, ModuleNotFoundError):
            return _fail(f"'{error.name}' is not installed: {REMEDIES[library]}", 1)
        return _fail(f"'{library}' does not load ({error.msg.splitlines()[0]}): {REMEDIES[library]}", 1)


def _parser(name: str | None, command: ModuleType | None) -> argparse.ArgumentParser:
    """Return the parser that lists every command and knows the arguments of `command` alone."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("actrec", description=DESCRIPTION, epilog=EPILOG, formatter_class=layout)
    parser.add_argument("--version", action="version", version=f"actrec {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for known, (_, help_line) in COMMANDS.items():
        sub = commands.add_parser(known, help=help_line, description=f"{help_line[0].upper()}{help_line[1:]}.")
        sub.formatter_class = layout
        if known == name and command is not None:
            command.add_arguments(sub)
    return parser


def _import(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name][0])


def _settle_stdout() -> None:
    """Flush stdout; if that fails, replace it by one that Python can flush at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: object, status: int) -> int:
    line = " ".join(str(message).split())
    print(f"actrec: {line}", file=sys.stderr)
    return status
