"""The command line: help with an example for every command, exit statuses, errors of one line."""

import errno
import importlib
import importlib.machinery
import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from actrec import __version__, cli
from actrec.utils.errors import ConfigError, DeviceError
from benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]


def run_main(arguments: list[str]) -> int:
    """Return the exit status that `main` returns or argparse exits with."""
    try:
        return cli.main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Register a command `probe` whose `run` each test replaces."""
    module = types.ModuleType("actrec_probe")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "actrec_probe", module)
    monkeypatch.setitem(cli.COMMANDS, "probe", ("actrec_probe", "probe the dispatcher"))
    return module


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([name, "--help"]) == 0
    output = capsys.readouterr().out
    assert "Example" in output
    assert f"actrec {name}" in output.split("Example", 1)[1]


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_wrong_use_exits_with_two_and_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([name, "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_command_line_without_arguments_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([]) == 0
    assert all(name in capsys.readouterr().out for name in ["actrec"])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["--help"]) == 0
    output = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if name not in output] == []


def test_version_option_prints_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"actrec {__version__}"


def test_unknown_command_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["fly"]) == 2
    error = capsys.readouterr().err
    assert "fly" in error
    assert "record" in error


def test_options_without_command_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["--wings"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("exception", "status"),
    [(DeviceError("no camera\nplug one in"), 1), (ConfigError("no such driver"), 2), (KeyboardInterrupt(), 130)],
)
def test_errors_become_one_line_and_a_status(
    exception: BaseException, status: int, command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: object) -> int:
        raise exception

    command.run = run  # type: ignore[attr-defined]
    assert run_main(["probe"]) == status
    expected = [f"actrec: {' '.join(str(exception).split())}"] if str(exception) else []
    assert capsys.readouterr().err.splitlines() == expected


def test_arguments_reach_the_command(command: types.ModuleType) -> None:
    command.run = lambda args: args.number  # type: ignore[attr-defined]
    assert run_main(["probe", "--number", "7"]) == 7


def test_missing_library_error_names_install_command(
    command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy.node")

    command.run = run  # type: ignore[attr-defined]
    assert run_main(["probe"]) == 1
    assert "source a ROS 2 distribution" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["rclpy", "cv2"])
def test_main_library_that_does_not_load_prints_one_line(
    library: str,
    command: types.ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file exists but does not load, like rclpy built for another Python."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / library).mkdir()
    (tmp_path / f"{library}/_compiled{suffix}").write_text("no library")
    monkeypatch.syspath_prepend(str(tmp_path / library))
    monkeypatch.delitem(sys.modules, "_compiled", raising=False)
    command.run = lambda args: importlib.import_module("_compiled")  # type: ignore[attr-defined]
    assert run_main(["probe"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"actrec: '{library}' does not load ({tmp_path}/{library}/_compiled{suffix}: ")
    assert line.endswith(cli.REMEDIES[library])


def test_unexpected_missing_module_is_not_hidden(command: types.ModuleType) -> None:
    def run(args: object) -> int:
        raise ModuleNotFoundError("No module named 'tyop'", name="tyop")

    command.run = run  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_main_closed_pipe_prints_no_traceback() -> None:
    code = "import sys; from actrec.cli import main; sys.exit(main(['--help']))"
    shell = f"'{sys.executable}' -c \"{code}\" | true"
    process = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("sink", "status", "error"),
    [
        (">&-", 0, ""),
        ("> /dev/full", 1, "actrec: the output: No space left on device; make room and try again\n"),
    ],
)
def test_main_closed_or_full_output_prints_no_traceback(sink: str, status: int, error: str) -> None:
    process = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m actrec bench {sink}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (status, error)


def test_printed_text_stays_when_another_disk_is_full(
    command: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed))  # keeps printed text until it is flushed

    def run(args: object) -> int:
        print("epoch 1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/last.ckpt")

    command.run = run  # type: ignore[attr-defined]
    assert run_main(["probe"]) == 1
    assert printed.getvalue() == b"epoch 1\n"
    assert capsys.readouterr().err == "actrec: /disk/last.ckpt: No space left on device; make room and try again\n"


def test_main_locale_without_a_character_prints_no_traceback() -> None:
    text = "from actrec import cli; cli.main([]); print('20° → left')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, check=True)
    assert process.stdout.decode("latin-1").endswith("20° ? left\n")


def test_bench_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["bench"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)
    assert run_main(["bench", "no_such"]) == 2
    assert "known" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_benchmark_names_resolve_to_functions(name: str) -> None:
    module, function = BENCHMARKS[name][0].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_wrong_use_of_a_benchmark_exits_with_two_and_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["bench", name, "--no-such-option"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("actrec: ") and len(error.splitlines()) == 1
    assert f"(see: actrec bench {name} --help)" in error


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["renderer", "--frames", "0"], 2, "argument --frames: '0' is not an integer of at least 1"),
        (["renderer", "--frames", "x"], 2, "argument --frames: 'x' is not an integer of at least 1"),
        (["actor", "--seconds", "-1"], 2, "argument --seconds: '-1' is not a number above 0"),
        (["actor", "--fps", "nan"], 2, "argument --fps: 'nan' is not a number above 0"),
        (["pipeline", "--modes", "one,both"], 2, "--modes has 'both'; known: one, each"),
        (["data", "--scratch", "/no/such"], 1, "--scratch is '/no/such', which is no folder"),
    ],
)
def test_bench_wrong_arguments_are_refused(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(["bench", *arguments]) == status
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_bench_prints_tables_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = types.ModuleType("actrec_probe_bench")
    figures = {"frames": 3, "by joint": [{"joint": "head", "error_mm": 12.5}, {"joint": "neck", "error_mm": 7.25}]}
    module.measure = lambda arguments: {**figures, "arguments": " ".join(arguments)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "actrec_probe_bench", module)
    monkeypatch.setitem(BENCHMARKS, "probe", ("actrec_probe_bench:measure", "probes"))
    assert run_main(["bench", "probe", "--frames", "3"]) == 0
    output = capsys.readouterr().out
    assert "| head | 12.5 |" in output
    assert "| arguments | --frames 3 |" in output
    assert run_main(["bench", "probe", "--json"]) == 0
    assert '"error_mm": 7.25' in capsys.readouterr().out


@pytest.mark.parametrize("program", ["import actrec.cli; actrec.cli.main([])", "import actrec_nodes"])
def test_numpy_will_start_with_one_thread(program):
    check = "assert 'numpy' not in sys.modules and os.environ['OPENBLAS_NUM_THREADS'] == '1'"
    code = f"import os, sys; os.environ.pop('OPENBLAS_NUM_THREADS', None); {program}; {check}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


def test_options_are_not_known_by_their_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", "--js"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --js" in capsys.readouterr().err
