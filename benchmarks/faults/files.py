"""Campaign of mutated files for each reader, each read by a process that may crash or hang."""

import contextlib
import logging
import math
import multiprocessing
import signal
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from actrec.utils.errors import ActrecError
from benchmarks import memory_mb
from benchmarks.faults.mutation import mutate
from benchmarks.faults.outcome import Outcome, chosen
from benchmarks.faults.readers import READERS

HANG_S, GROWTH_MB = 5.0, 50.0
PEAK_MB = 600.0  # of one file while it is read: a reader refuses a chunk or image of more than 2^29 bytes
WARM_UP = 50  # files that are read before the memory is measured
START_S = 120.0  # to import the libraries and read the first file
READ, REFUSED = "read", "refused"


def read_mutated(times: int, only: Sequence[str] = ()) -> list[Outcome]:
    """Let each reader read `times` mutated files; a file is read, or refused with one of `actrec.utils.errors`."""
    return [_attack(name, times) for name in chosen(only, READERS)]


def _attack(name: str, times: int) -> Outcome:
    outcome, counts, first = Outcome("files", name, times), Counter[str](), 0
    slowest = growth = peak = 0.0
    with TemporaryDirectory() as folder:
        while first < times:
            done, last, seconds, grown, highest = _read_in_child(name, folder, first, times)
            counts += done
            slowest, growth, peak = max(slowest, seconds), max(growth, grown), float(np.maximum(peak, highest))
            first = last + 1
    outcome.growth_mb, outcome.peak_mb = growth, None if math.isnan(peak) else peak
    outcome.figures = {"read": counts.pop(READ, 0), "refused": counts.pop(REFUSED, 0), "slowest, s": round(slowest, 2)}
    outcome.check(growth_mb=GROWTH_MB)
    outcome.require(not peak > PEAK_MB, f"a file took {peak:.0f} MB")
    outcome.faults += [f"{number} times {fault}" for fault, number in counts.most_common(5)]
    return outcome


def _read_in_child(name: str, folder: str, first: int, times: int) -> tuple[Counter[str], int, float, float, float]:
    """Read mutated files in a process until it has read the last, crashes or hangs.

    Returns:
        The number of each result, the last file's number, the seconds of the slowest, the growth of the memory, MB, and
        the most memory that a file took, MB, NaN if it cannot be measured.
    """
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")  # its server has imported the readers and runs no thread
    context.set_forkserver_preload([READERS[name].__module__])
    child = context.Process(target=_serve, args=(name, folder, first, times, there), daemon=True)
    child.start()
    there.close()
    results: Counter[str] = Counter()
    number, slowest, memory, peaks, limit_s, began = first, 0.0, [], [0.0], START_S, time.monotonic()
    while number < times:
        if not here.poll(limit_s):
            results[f"hang over {limit_s:g} s (file {number})"] += 1
            child.kill()
            break
        try:
            result, resident, peak = here.recv()
        except EOFError:
            child.join()
            code = -(child.exitcode or 0)
            results[f"crash by {signal.Signals(code).name if code > 0 else 'exit'} (file {number})"] += 1
            break
        results[result] += 1
        memory.append(resident)
        peaks.append(peak)
        slowest = max(slowest, time.monotonic() - began) if limit_s == HANG_S else slowest
        number, limit_s, began = number + 1, HANG_S, time.monotonic()
    here.close()
    child.join(HANG_S)
    warm = memory[min(WARM_UP, len(memory) - 1) :] if memory else [0.0]
    return results, number, slowest, max(warm) - warm[0], float(np.max(peaks))


def _serve(name: str, folder: str, first: int, times: int, connection: Connection) -> None:
    logging.disable(logging.CRITICAL)
    own = Path(folder) / str(first)
    own.mkdir()
    path = READERS[name].write(own)
    valid = path.read_bytes()
    READERS[name].read(path)  # the valid file; also compiles
    for number in range(first, times):
        before = reset_peak()
        result = read_one(name, path, valid, number)
        connection.send((result, memory_mb("RssAnon"), memory_mb("VmHWM") - before))


def reset_peak() -> float:
    """Let the kernel measure the highest memory of this process from now on; return the present one, MB, NaN if not."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return memory_mb("VmHWM")
    return math.nan


def read_one(name: str, path: Path, valid: bytes, number: int) -> str:
    """Write a mutated copy of the bytes to the path and read it.

    Returns:
        `READ`, `REFUSED`, or the foreign exception with its place.
    """
    path.write_bytes(mutate(valid, np.random.default_rng([0, number])))
    try:
        READERS[name].read(path)
    except ActrecError as error:
        line: Any = str(error)
        return REFUSED if "\n" not in line and line else f"a message of {line.count(chr(10)) + 1} lines"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(frame.filename).name}, {frame.name}"
    return READ
