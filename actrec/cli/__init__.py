"""The command line `actrec`. Each command is a module that is imported only when it is called.

A command module has `add_arguments(parser)` and `run(args) -> int`. Exit status: 0 success, 1 failure, 2 wrong use,
130 interrupted.
"""

import argparse
import contextlib
import errno
import importlib
import io
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from actrec import __version__
from actrec.utils import config, single_threaded_blas, stop_signals
from actrec.utils.errors import ActrecError, ConfigError
from actrec.utils.folders import NO_HOME
from actrec.utils.registry import INSTALL_OPENCV
from actrec.utils.waiting import WAIT_S, Waiting

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("actrec.cli.run", "run the whole graph in one process, from camera to /action_label"),
    "simulate": ("actrec.cli.simulate", "render the simulated actor to a folder of images or a video"),
    "calibrate": ("actrec.cli.calibrate", "calibrate a camera's lens, its depth and its pose on the robot"),
    "record": ("actrec.cli.record", "record topics, or labeled clips of your own actions, to rosbag2 files"),
    "label": ("actrec.cli.label", "label the people in a video, without ROS; write the video, the events, or both"),
    "view": ("actrec.cli.view", "show a running graph, a camera or a recording in 3-D"),
    "models": ("actrec.cli.models", "list, check and describe model packages"),
    "prepare": ("actrec.cli.prepare", "convert a dataset to a store that training reads fast"),
    "train": ("actrec.cli.train", "train a network on a dataset"),
    "eval": ("actrec.cli.eval", "score a model package or a checkpoint on a dataset"),
    "explain": ("actrec.cli.explain", "draw the joints that a label rests on, and the network's attention"),
    "teach": ("actrec.cli.teach", "learn your own actions from recordings"),
    "export": ("actrec.cli.export", "export a trained network to a model package"),
    "quantize": ("actrec.cli.quantize", "add an int8 network to a model package"),
    "build-engine": ("actrec.cli.build_engine", "build the TensorRT engine of a model package, on the robot"),
    "bench": ("actrec.cli.bench", "measure one part of the graph, or all of it"),
    "doctor": ("actrec.cli.doctor", "check the installation and the hardware, and name a remedy for each fault"),
}

DESCRIPTION = "From an RGB-D camera to action labels. 'actrec COMMAND --help' explains a command, with an example."

EPILOG = """\
Example:
  actrec run --driver simulated --duration 20
  actrec doctor
"""

LIVE = "pip install 'actrec[live]', or: make venv EXTRAS=live"

REMEDIES = {
    "actrec_msgs": "build the messages and load them: make build && . scripts/env.sh",
    "actrec_nodes": "install the package: make build",
    "actrec_models": "install the package: make build",
    "av": "pip install av, or: make venv EXTRAS=live",
    "cv2": INSTALL_OPENCV,
    "lightning": "pip install 'actrec[train]', or: make venv EXTRAS='live train'",
    "numba": "pip install numba, or: make venv EXTRAS=live",
    "onnxruntime": "pip install onnxruntime, or: make venv EXTRAS=live",
    "psutil": LIVE,
    "rclpy": "source a ROS 2 distribution, or: make venv build && . scripts/env.sh",
    "rosbags": LIVE,
    "torch": "pip install 'actrec[train]', or: make venv EXTRAS='live train'",
}
"""Top-level module to the remedy if a command cannot import it."""

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk or quota; every command reports them in one line


class Parser(argparse.ArgumentParser):
    """Argument parser that reports wrong use in one line.

    Abbreviated options are refused: they would become ambiguous once another option is added.
    """

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Print `message` and how to get help, and exit with status 2."""
        self.exit(2, f"actrec: {message} (see: {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: Arguments after the program's name; by default from `sys.argv`.
    """
    single_threaded_blas()  # before any command imports numpy
    if sys.stderr is None:  # closed by the shell: `2>&-`
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the locale may lack "→" and "°"
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        with interruptible() as stopped:  # an interrupt in the import of a compiled module breaks it
            command = importlib.import_module(COMMANDS[name][0]) if name in COMMANDS else None
        if stopped.is_set():
            return 130
        parser = _parser(name, command)
        if not arguments:
            parser.print_help()
            return 0
        args = parser.parse_args(arguments)
        if command is None:
            parser.error(f"name a command: {', '.join(COMMANDS)}")
        status = command.run(args)
        if sys.stdout is not None:  # None if the shell closed it: `>&-`
            sys.stdout.flush()
        return status
    except ConfigError as error:
        return _fail(error, 2)
    except ActrecError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_stdout()  # the reader (head, less) has ended
        return 1
    except RuntimeError as error:
        if "home directory" not in str(error):  # of Path.expanduser
            raise
        return _fail(NO_HOME, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EROFS) and error.filename:
            return _fail(f"'{error.filename}': {error.strerror}; name another path, or change its owner or mode", 1)
        if error.errno not in FULL:
            raise
        _discard_stdout()
        return _fail(f"{error.filename or 'the output'}: {error.strerror}; make room and try again", 1)
    except ImportError as error:
        # The name of a compiled module that does not load lacks the package; its path has it.
        parts = [(error.name or "").split(".")[0], *Path(error.path or "").parts]
        library = next((part for part in reversed(parts) if part in REMEDIES), None)
        if library is None:
            raise
        if isinstance(error, ModuleNotFoundError):
            return _fail(f"'{error.name}' is not installed: {REMEDIES[library]}", 1)
        return _fail(f"'{library}' does not load ({error.msg.splitlines()[0]}): {REMEDIES[library]}", 1)


def _parser(name: str | None, command: ModuleType | None) -> argparse.ArgumentParser:
    """Return the parser with every command, but only with the arguments of `command`."""
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


def _discard_stdout() -> None:
    """Flush stdout; if that fails, redirect it to /dev/null, so that Python can flush it at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: object, status: int) -> int:
    line = " ".join(str(message).split())
    print(f"actrec: {line}", file=sys.stderr)
    return status


# -- arguments of several commands -------------------------------------------------------------------------------------


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    return int(_parse(text, lambda number: 1 <= number < math.inf and text.isdecimal(), "an integer of at least 1"))


def up_to(limit: int) -> Callable[[str], int]:
    """Return the parser of an integer from 0 to `limit`."""
    what = f"a number from 0 to {limit}"
    return lambda text: int(_parse(text, lambda number: text.isdecimal() and number <= limit, what))


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the option of the networks' backend."""
    names = ("auto", *importlib.import_module("actrec.inference").BACKENDS.names())
    text = "of the networks; auto: an engine that is built, else onnxruntime (default: %(default)s)"
    parser.add_argument("--backend", default="auto", choices=names, help=text)


def amount(text: str) -> float:
    """Parse a number above 0."""
    return _parse(text, lambda number: 0 < number < math.inf, "a number above 0")


def finite(text: str) -> float:
    """Parse a finite number."""
    return _parse(text, math.isfinite, "a finite number")


def duration(text: str) -> float:
    """Parse seconds, 0 or more."""
    return _parse(text, lambda number: 0 <= number < math.inf, "a number of seconds of at least 0")


def _parse(text: str, accepts: Callable[[float], bool], what: str) -> float:
    with contextlib.suppress(ValueError):
        if accepts(float(text)):
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not {what}")


def numbers(length: int, kind: Callable[[str], float] = finite) -> Callable[[str], tuple[float, ...]]:
    """Return the parser of numbers separated by commas, each parsed by `kind`."""

    def parse(text: str) -> tuple[float, ...]:
        words = text.replace("x", ",").split(",")
        if len(words) != length:
            raise argparse.ArgumentTypeError(f"'{text}' is not {length} numbers with commas")
        return tuple(map(kind, words))

    return parse


def refuse(given: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if an option that has no effect is given; `where` is the end of "--part cannot be used …"."""
    if wrong := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise ConfigError(f"{', '.join(wrong)} cannot be used {where}: leave it out")


def refuse_unused(args: argparse.Namespace, options: str, where: str) -> None:
    """Call `refuse` with some options of a command, separated by blanks; not given, they are empty, false or None."""
    refuse({name: getattr(args, name) for name in options.split()}, where)


def names(text: str) -> list[str]:
    """Parse names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_driver(parser: argparse._ActionsContainer, help_line: str) -> None:
    """Add `--driver` and `--driver-option`."""
    parser.add_argument("--driver", help=help_line)
    parser.add_argument(
        "--driver-option", metavar="KEY=VALUE", action="append", default=[], help="setting of that driver; repeatable"
    )


def driver_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the driver's settings; raise ConfigError if one is not KEY=VALUE, or there is no driver."""
    if args.driver_option and not args.driver:
        raise ConfigError("--driver-option: needs --driver")
    return config.parse_pairs(args.driver_option, "driver option")


def add_wait(parser: argparse._ActionsContainer) -> None:
    """Add `--wait`, the limit of a command that waits for a running graph."""
    wait = f"seconds to wait for the graph's first message (default: {WAIT_S:g}; 0: until Ctrl-C)"
    parser.add_argument("--wait", type=duration, metavar="S", help=wait)


def waiting(args: argparse.Namespace, stopped: threading.Event) -> Waiting:
    """Return the wait of the arguments, which `stopped` ends."""
    limit_s = WAIT_S if args.wait is None else args.wait
    return Waiting(stopped, lambda line: print(f"actrec: {line}", file=sys.stderr, flush=True), limit_s)


def to_width(line: str) -> str:
    """Return a line cut and padded to the terminal's width: a longer one would begin a row each time it is shown."""
    width = shutil.get_terminal_size().columns - 1
    return f"{line[:width]:<{width}}"


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let a signal to stop set the event instead of ending the process, so that results so far are kept."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    previous = {kind: signal.signal(kind, lambda *_: stopped.set()) for kind in stop_signals()}
    try:
        yield stopped
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
