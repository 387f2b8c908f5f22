"""`actrec record --label`: takes of an action of the person's own."""

import argparse
import contextlib
import dataclasses
import importlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

from actrec import config, keyvalues
from actrec.errors import ConfigError
from actrec.takes import CLOCK, TakeConfig, Takes, record

HELP = {field.name: field.metadata["description"] for field in dataclasses.fields(TakeConfig)}
OWN = ("person", "countdown", "seconds", "repeat")
"""Options that mean nothing without --label."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that only takes have."""
    takes = parser.add_argument_group("an action of your own (then: actrec teach DIR)")
    takes.add_argument("--label", metavar="NAME", help=f"count down and record takes of it: {HELP['label']}")
    defaults = TakeConfig()
    for name, kind, metavar in (
        ("person", str, "NAME"),
        ("countdown", float, "S"),
        ("seconds", float, "S"),
        ("repeat", int, "N"),
    ):
        shown = f" (default: {getattr(defaults, name)})" if getattr(defaults, name) != "" else ""
        takes.add_argument(f"--{name}", type=kind, metavar=metavar, help=HELP[name] + shown)
    takes.add_argument("--images", action="store_true", help="keep colour and depth too, 40 MB a second")
    takes.add_argument("--beep", action="store_true", help="ring the terminal's bell at begin and end")


def refuse_without_label(args: argparse.Namespace) -> None:
    """Refuses options of takes where no label is given.

    Raises:
        ConfigError: Names them.
    """
    given = [f"--{name}" for name in OWN if getattr(args, name) is not None]
    given += [f"--{name}" for name in ("images", "beep") if getattr(args, name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: for takes of an action, whose --label is missing")


def run(args: argparse.Namespace, stopped: threading.Event) -> int:
    """Records takes from a camera or from the running graph."""
    if args.topics or args.duration:
        raise ConfigError("--label records skeletons (and --images) for --seconds: leave --topics and --duration out")
    given = {name: getattr(args, name) for name in ("label", "out", *OWN) if getattr(args, name) is not None}
    settings = config.build(TakeConfig, given)
    settings.check()
    console = _Console(args.beep)
    with contextlib.ExitStack() as held:
        if args.driver:
            from actrec.sights import of_camera

            options = keyvalues.read(args.driver_option, "driver option")
            read = held.enter_context(of_camera(args.driver, options, args.images))
        else:
            if args.driver_option:
                raise ConfigError(f"driver option '{args.driver_option[0]}' needs the --driver that it is a setting of")
            read = held.enter_context(importlib.import_module("actrec_nodes.take_node").of_graph(args.images))
        try:
            done = record(read, settings, stopped, console.show)
        finally:
            console.end()
    return _report(args, settings, done)


class _Console:
    """One line on stderr that changes; lines that stay are kept."""

    def __init__(self, beep: bool):
        self._beep, self._terminal = beep, sys.stderr.isatty()

    def show(self, text: str, stays: bool) -> None:
        """Shows a line; the running clock on a terminal alone."""
        bell = "\a" if self._beep and ("GO!" in text or stays) else ""
        if self._terminal:
            print(f"\r{text:<110}{bell}", end="\n" if stays else "", file=sys.stderr, flush=True)
        elif stays or CLOCK not in text:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the line."""
        if self._terminal:
            print(file=sys.stderr)


def _report(args: argparse.Namespace, settings: TakeConfig, done: Takes) -> int:
    out = Path(settings.out).expanduser()
    if args.json:
        said: dict[str, Any] = {"folder": str(out.resolve()), "label": settings.label}
        said.update(kept=[clip.recording for clip in done.kept], refused=done.refused)
        print(json.dumps(said))
    else:
        again = f"; {len(done.refused)} refused" if done.refused else ""
        print(f"{len(done.kept)} of {settings.repeat} takes of '{settings.label}' in {out}{again}")
    return 0 if done.kept else 1
