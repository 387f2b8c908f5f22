"""`actrec label`: label the people in a video or another recording, without ROS."""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actrec.cli import add_backend, amount, count, interruptible, up_to
from actrec.inference import zoo
from actrec.types import NANOSECONDS
from actrec.utils import config, folders, usable_cores
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, EndOfStream, InputError

if TYPE_CHECKING:
    from actrec.recognition.events import ActionEvent
    from actrec.recognition.offline import LabeledFrame
    from actrec.recognition.recognizer import ActionPrediction
    from actrec.types import RgbdFrame

EPILOG = """\
Examples:
  actrec label party.mp4 --out labeled.mp4 --csv events.csv
  actrec label kitchen.mcap --csv events.csv --windows labels.csv
  actrec label clip.mp4 --labels windows --out labeled.mp4       a clip shorter than the model's window (3 s)
  actrec label long.mp4 --every 2 --max-edge 960 --csv events.csv   faster

Also reads bags and folders with depth, which makes places and joints exact. Without depth, the size of people and the
camera's field of view (--recording hfov_deg=70) give the distance, to about 20 %; the places are marked as estimated.
The labeled video has no sound. Ctrl-C keeps the results so far.
"""

EVENT_COLUMNS = ("start_s", "end_s", "person", "label", "confidence", "x_m", "y_m", "z_m", "place")
WINDOW_COLUMNS = ("start_s", "end_s", "person", "label", "confidence", "best")

MEASURED, ESTIMATED = "measured", "estimated"
"""Where an event's place comes from: depth, or the size of the person."""

TIMEOUT_S = 600.0  # for one frame, of a slow disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("recording", metavar="VIDEO", type=Path, help="video, bag, folder of images or skeleton file")
    add("--out", metavar="FILE.mp4", type=Path, help="write the video with skeletons and labels")
    add("--csv", metavar="FILE", type=Path, help="write a row for each action: its span, person, label and place")
    add("--windows", metavar="FILE", type=Path, help="write a row for each label of each person, five a second")
    add("--json", action="store_true", help="print events and figures as JSON, and nothing else")
    add("--model", default=zoo.DEFAULT, help="name of an installed model package, or its folder (default: %(default)s)")
    add_backend(parser)
    add("--labels", default="auto", choices=("auto", "events", "windows"),
        help="shown labels: present events, or each window's own; auto: as the model's package prefers")  # fmt: skip
    add("--every", type=count, default=1, metavar="N", help="use every N-th frame (default: 1)")
    add("--max-edge", type=up_to(16384), default=1920, metavar="PX",
        help="scale larger videos down to this edge; 0 for never (default: %(default)s)")  # fmt: skip
    add("--duration", type=amount, default=0.0, metavar="S", help="label only so many seconds (default: to the end)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="setting of the recognizer, such as events.begin=0.5; repeatable")  # fmt: skip
    add("--recording", dest="options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="property that the recording does not store, such as hfov_deg=70, fps=15, mount=upside_down")  # fmt: skip


@dataclass
class Result:
    """What was found in a recording; stamps count from its first frame."""

    is_measured: bool  # whether joints have depth, or are recorded
    start_ns: int  # stamp of the first frame
    evidence_s: float  # time that a person must be in view before an event
    frames: int = 0  # that were labeled
    seconds: float = 0.0  # from the first frame to the last
    whole_s: float = 0.0  # of the recording, as far as it was to be labeled
    elapsed_s: float = 0.0  # time that it took
    codec: str = ""  # of the labeled video
    people: set[str] = field(default_factory=set)
    windows: list["ActionPrediction"] = field(default_factory=list)
    events: list["ActionEvent"] = field(default_factory=list)  # that have ended
    warning: str = ""
    problem: str = ""  # why the rest is not labeled
    has_video: bool = True  # whether the labeled video could be written
    is_interrupted: bool = False

    def add(self, labeled: "LabeledFrame") -> None:
        """Add a frame's people, labels and events."""
        self.frames += 1
        self.people |= {body.body_id for body in labeled.people.bodies}
        self.windows += [made for made in labeled.predictions if made.top_labels]
        self.events += [event for event in labeled.events if event.kind == "ended"]

    def time(self, stamp_ns: int) -> float:
        """Return the seconds of a stamp from the first frame."""
        return round((stamp_ns - self.start_ns) / NANOSECONDS, 3)

    def event(self, event: "ActionEvent") -> dict[str, Any]:
        """Return the row of an event, by `EVENT_COLUMNS`."""
        place = [round(value, 2) if math.isfinite(value) else None for value in event.position]
        source = MEASURED if self.is_measured else ESTIMATED
        span = self.time(event.start_ns), self.time(event.end_ns)
        row = (*span, event.body_id, event.label, round(event.confidence, 3), *place, source)
        return dict(zip(EVENT_COLUMNS, row, strict=True))

    def window(self, made: "ActionPrediction") -> dict[str, Any]:
        """Return the row of a label, by `WINDOW_COLUMNS`."""
        span = self.time(made.window_start_ns), self.time(made.stamp_ns)
        top = [f"{label} {value:.3f}" for label, value in zip(made.top_labels, made.top_probabilities, strict=True)]
        row = (*span, made.body_id, made.label, round(made.confidence, 3), "; ".join(top))
        return dict(zip(WINDOW_COLUMNS, row, strict=True))


def run(args: argparse.Namespace) -> int:
    """Label a recording; also after Ctrl-C or an error on the way, write the results so far."""
    outputs = [path for path in (args.out, args.csv, args.windows) if path is not None]
    check_outputs(args.recording, outputs)
    with contextlib.ExitStack() as writing:  # Ctrl-C ends the work, and loses no result while they are written
        return write(args, outputs, label(args, writing))


def write(args: argparse.Namespace, outputs: Sequence[Path], result: Result) -> int:
    """Write and print the results; return the exit status."""
    result.events.sort(key=lambda event: event.start_ns)
    events, windows = [*map(result.event, result.events)], [*map(result.window, result.windows)]
    problems = [result.problem] if result.problem else []
    written = [path for path in outputs if path is not args.out or result.has_video]
    for path, columns, rows in ((args.csv, EVENT_COLUMNS, events), (args.windows, WINDOW_COLUMNS, windows)):
        try:
            if path is not None:
                write_csv(path, columns, rows)
        except DeviceError as error:  # the other results are not lost
            problems.append(str(error))
            written.remove(path)
    figures = {
        "frames": result.frames,
        "seconds": round(result.seconds, 3),
        "frames_per_second": round(result.frames / max(result.elapsed_s, 1e-9), 1),
        "people": len(result.people),
        "place": MEASURED if result.is_measured else ESTIMATED,
        "model": args.model,
        "codec": result.codec,
        "interrupted": result.is_interrupted,
        "written": [*map(str, written)],
    }
    print(json.dumps({"events": events, **figures}) if args.json else table(events, figures))
    until = f"{result.seconds:.1f} of {result.whole_s:.1f} s: the results are of this part"
    if result.is_interrupted:
        problems.append(f"interrupted at {until}")
    elif result.problem:
        problems.append(f"ended at {until}")
    for line in filter(None, (result.warning, hint(result), *problems)):
        print(f"actrec: {line}", file=sys.stderr)
    return 130 if result.is_interrupted else 1 if problems else 0


def check_outputs(recording: Path, outputs: Sequence[Path]) -> None:
    """Refuse files that cannot be written, before the work starts.

    Raises:
        ConfigError: An output is the recording itself, or two outputs are one file.
        DeviceError: An output is no file, or its folder cannot be written.
    """
    taken = [recording.expanduser().absolute()]
    for path in outputs:
        whole = path.expanduser().absolute()
        if any(_is_same(whole, other) for other in taken):
            raise ConfigError(f"'{path}' is given twice, as an output and as another file: name another file")
        taken.append(whole)
        is_odd = os.path.exists(whole) and not os.path.isfile(whole)
        cause = "it is a folder" if os.path.isdir(whole) else "a pipe or a device, not a file" if is_odd else ""
        if cause := cause or folders.problem(whole.parent):
            raise DeviceError(f"cannot write '{path}' ({cause}): name another file")


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one file, also by links."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    with contextlib.suppress(OSError):  # one does not exist yet
        return os.path.samefile(one, other)
    return False


def label(args: argparse.Namespace, writing: contextlib.ExitStack) -> Result:
    """Recognize the people in a recording, and write the labeled video.

    Args:
        args: Of the command.
        writing: Keeps Ctrl-C from ending the process, from the first frame until it is closed.
    """
    from actrec.cameras.replay import Decoder
    from actrec.recognition import RecognitionConfig
    from actrec.recognition.offline import OfflineRecognizer
    from actrec.recordings import RecordingConfig, open_recording
    from actrec.visualization.labeled_video import LabeledVideo

    settings = config.merge_settings({"labels": args.labels}, config.parse_pairs(args.set, "--set"))
    config.build(RecognitionConfig, settings)  # unknown ones would be arguments of the recognizer
    given = {"max_edge": args.max_edge, **config.parse_pairs(args.options, "--recording")}
    recording = open_recording(args.recording, config.build(RecordingConfig, given))
    with contextlib.ExitStack() as stack:
        stack.enter_context(recording)
        if (first := next(recording.frames(), None)) is None:
            raise InputError(f"'{args.recording}' has no frame: record it again")
        if args.out is not None and first.color is None:
            raise ConfigError(f"'{args.recording}' has joints without images: leave out --out, and use --csv")
        is_measured = first.depth is not None or first.color is None
        threads = min(usable_cores(), 4)
        has_color = first.color is not None
        worker = OfflineRecognizer(args.model, args.backend, is_measured, has_color, threads, **settings)
        stack.enter_context(worker)
        if worker.flow_device:
            print(f"actrec: {worker.flow_device}", file=sys.stderr)
        with contextlib.suppress(ActrecError):  # a damaged frame will raise again
            worker.find_gravity(recording.frames())
        decoder = stack.enter_context(contextlib.closing(Decoder(recording, 0.0, args.duration, loop=False)))
        out = None if args.out is None else folders.expanded(args.out)  # a shell leaves the ~ of --out=~/labeled.mp4
        video = None if out is None else stack.enter_context(contextlib.closing(LabeledVideo(out)))
        window_s = worker.recognizer.session.package.window.seconds
        result = Result(is_measured, first.stamp_ns, worker.recognizer.config.events.evidence_s or window_s)
        began = time.monotonic()
        result.whole_s = min(recording.duration_s, args.duration or recording.duration_s)
        stopped = writing.enter_context(interruptible())
        with bar(result.whole_s) as advance, kept_so_far(result):
            for number, frame in enumerate(frames(decoder)):
                if stopped.is_set():
                    break
                result.seconds = result.time(frame.stamp_ns)
                advance(result.seconds)
                if number % args.every:
                    continue
                labeled = worker.process(frame)
                result.add(labeled)
                if video is not None:
                    result.has_video = False
                    video.add(labeled)
                    result.has_video = True
        if stopped.is_set() and not result.frames:
            raise KeyboardInterrupt  # there is nothing to write: earlier files stay
        result.is_interrupted = stopped.is_set()
        result.events += [event for event in worker.finish() if event.kind == "ended"]
        if video is not None:
            is_written, result.has_video = result.has_video, False
            with kept_so_far(result):
                video.close()  # reports a full disk
                result.has_video = is_written
            result.codec = video.codec
        result.elapsed_s = time.monotonic() - began
        result.warning = worker.warning
        result.is_measured &= not worker.depth_is_refused
    return result


@contextlib.contextmanager
def kept_so_far(result: Result) -> Iterator[None]:
    """Keep an error for later if there are results already: they may be of hours."""
    try:
        yield
    except ActrecError as error:
        if not result.frames:
            raise
        result.problem = result.problem or str(error)


def frames(decoder: Any) -> Iterator["RgbdFrame"]:
    """Yield the frames up to the end."""
    with contextlib.suppress(EndOfStream):
        while True:
            yield decoder.next(TIMEOUT_S)


@contextlib.contextmanager
def bar(seconds: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar in seconds of the recording, and return a function that sets it."""
    from tqdm import tqdm

    text = "{percentage:3.0f}% {bar} {n:.0f} of {total:.0f} s [{elapsed} < {remaining}, {rate_noinv_fmt}]"
    total = max(seconds, 0.1)
    with tqdm(total=total, unit=" s", disable=None, bar_format=text) as shown:

        def advance(to: float) -> None:
            shown.update(max(min(to, total) - shown.n, 0.0))

        yield advance


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file with a header; raise DeviceError if it cannot be written."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    folders.write_file(folders.expanded(path), text.getvalue().encode(), "name another file")


def table(events: Sequence[dict[str, Any]], figures: dict[str, Any]) -> str:
    """Return the events as lines, and a closing line."""
    lines = [
        f"{event['start_s']:8.1f} – {event['end_s']:<8.1f} {event['person']:<10} {event['label']:<24} "
        f"{event['confidence']:5.2f}"
        for event in events
    ]
    if lines:
        lines = [f"{'from':>8} – {'to, s':<8} {'person':<10} {'action':<24} confidence", *lines, ""]
    written = f"; written: {', '.join(figures['written'])}" if figures["written"] else ""
    return "\n".join(
        [
            *lines,
            f"{len(events)} action(s) of {figures['people']} person(s) in {figures['frames']} frames, "
            f"{figures['seconds']:.1f} s, at {figures['frames_per_second']:.1f} frames/s{written}",
        ]
    )


def hint(result: Result) -> str:
    """Return why a recording without events has none, as far as that is known; empty if it has some."""
    if result.events:
        return ""
    if not result.people and not result.windows:
        return "no person was found"
    if result.seconds < result.evidence_s + 0.5:
        return (
            f"the recording lasts {result.seconds:.1f} s, and a person must be in view for {result.evidence_s:g} s "
            "before an action: use --labels windows, with --windows FILE for a table, or --set events.evidence_s=1"
        )
    return ""
