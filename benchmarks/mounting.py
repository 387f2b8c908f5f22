"""`actrec bench mounting`: packages on recordings of a camera that is rolled or pitched, from joints and from pixels.

Joints of a test part are rotated as if the camera were turned. Pixels are rendered: recordings move the simulated actor
in front of a turned camera, and the perception estimates them again. The direction of gravity is ignored, known, or
estimated by `GravityEstimator` from people and floor.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec import datasets, inference
from actrec.cli import Parser, count
from actrec.datasets.base import Clip, ClipDataset
from actrec.perception.gravity import GravityEstimator
from actrec.perception.pipeline import BodyPerception
from actrec.simulation.scene import CameraPose
from actrec.skeleton.layouts import CANONICAL
from actrec.types import NANOSECONDS, Body, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.errors import ConfigError
from actrec_models import evaluation
from actrec_models.data import rendered_skeletons as recordings

KNOWLEDGE = ("ignored", "known", "estimated")

ROLLS = tuple(range(-165, 181, 15))
PITCHES = (-30, -15, 15, 30)

_BLANK = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)

WAIST_M, MIN_HEIGHT_M = 0.9, 0.15
"""Height that a pitched camera looks at, and the least height of a camera."""


@dataclass(frozen=True)
class Mounting:
    """Roll and pitch of a camera in degrees, as in `gravity.up_from_angles`."""

    roll: int
    pitch: int

    @property
    def up(self) -> np.ndarray:
        """Return the unit vector [3] against gravity in the optical frame."""
        return gravity.up_from_angles(self.roll, self.pitch)


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    """Score packages on one test part for each mounting of the camera."""
    parser = Parser("actrec bench mounting", description="Packages on recordings of a turned camera.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--dataset", default="nucla", help="(default: %(default)s)")
    parser.add_argument("--packages", default="", help="names or folders with commas between")
    parser.add_argument("--pixels", type=count, metavar="N", help="render every N-th recording (default: joints only)")
    parser.add_argument("--rolls", default=",".join(map(str, ROLLS)), help="degrees (default: %(default)s)")
    parser.add_argument("--pitches", default=",".join(map(str, PITCHES)), help="degrees (default: %(default)s)")
    parser.add_argument("--up", choices=KNOWLEDGE, nargs="+", default=KNOWLEDGE, help="(default: all)")
    parser.add_argument("--ups", type=Path, metavar="JSON", help="write the estimated directions here, or, for a "
                        "dataset of hands, read the ones of a dataset of people")  # fmt: skip
    parser.add_argument("--found", type=Path, default=Path("runs/mounting"), metavar="FOLDER", help="of skeletons "
                        "found in pixels; existing ones are only scored (default: %(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    args = parser.parse_args(list(arguments))
    test = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test")
    sessions = [_session(name, test.classes) for name in args.packages.split(",") if name]
    mountings = [Mounting(0, 0), *(Mounting(int(roll), 0) for roll in args.rolls.split(",") if int(roll)),
                 *(Mounting(0, int(pitch)) for pitch in args.pitches.split(",") if int(pitch))]  # fmt: skip
    if not args.pixels:
        rows = _from_joints(test, sessions, mountings, args.up, args.ups)
    else:
        found = _from_pixels(test, [(mounting, up) for up in args.up for mounting in mountings], args)
        rows = [_row(mounting, up, clips, test, sessions) for mounting, up, clips in found if sessions]
    return {"dataset": args.dataset, "from": "pixels" if args.pixels else "joints", "mountings": rows}


def _session(name: str, classes: Sequence[str]) -> inference.Session:
    session = inference.load(name)
    if session.package.labels != tuple(classes):
        raise ConfigError(f"{name} does not have the dataset's {len(classes)} classes")
    return session


def _row(
    mounting: Mounting, up: str, clips: Sequence[Clip], test: Any, sessions: Sequence[inference.Session]
) -> dict[str, Any]:
    row: dict[str, Any] = {"roll": mounting.roll, "pitch": mounting.pitch, "up": up, "clips": len(clips)}
    found = ClipDataset(clips, test.classes, test.layout)
    for session in sessions:
        probabilities = session.softmax(evaluation.score(session, found, "live").logits)
        right = probabilities.argmax(axis=1) == found.labels
        accepted = probabilities.max(axis=1) >= session.package.rejection.threshold
        row[session.package.name] = int(right.sum())
        row[f"{session.package.name} accepted"] = int((right & accepted).sum())
    roll, pitch = (
        (np.median(angles) for angles in zip(*map(_angles, clips), strict=True)) if up != "ignored" else (0, 0)
    )
    return {**row, "median up": f"{roll:.1f}, {pitch:.1f}"}


def _angles(clip: Clip) -> tuple[float, float]:
    return gravity.angles_from_up(clip.streams.get("up", np.array(gravity.LEVEL)))


# -- joints ------------------------------------------------------------------------------------------------------------


def _from_joints(
    test: Any, sessions: Sequence[inference.Session], mountings: Sequence[Mounting], ups: Sequence[str],
    file: Path | None,
) -> list[dict[str, Any]]:  # fmt: skip
    clips = [test[index].leveled() for index in range(len(test))]
    people = [str(entry.meta.get("subject", "")) for entry in test.entries]
    stored = json.loads(file.read_text()) if file and file.is_file() else {}
    rows = []
    for mounting in tqdm(mountings, unit="mounting", file=sys.stderr):
        key = f"{mounting.roll},{mounting.pitch}"
        turned = [replace(clip, bodies=_turn(clip.bodies, mounting)) for clip in clips]
        for up in ups:
            known: list[Any] = [None if up == "ignored" else mounting.up.tolist()] * len(turned)
            if up == "estimated" and test.layout == CANONICAL:
                known = stored[key] = _estimates(turned, people)
            elif up == "estimated" and key in stored:
                known = [stored[key][index % len(stored[key])] for index in range(len(turned))]
            elif up == "estimated":
                continue
            found = [replace(clip, streams={} if each is None else {"up": np.array(each, np.float32)})
                     for clip, each in zip(turned, known, strict=True)]  # fmt: skip
            rows.append(_row(mounting, up, found, test, sessions))
    if file and test.layout == CANONICAL:
        file.write_text(json.dumps(stored))
    return rows


def _turn(joints: np.ndarray, mounting: Mounting) -> np.ndarray:
    """Return joints [..., 3] of a level camera as the turned camera at the same place sees them."""
    return (joints @ gravity.level_rotation(mounting.up)).astype(np.float32)


def _estimates(clips: Sequence[Clip], people: Sequence[str]) -> list[list[float] | None]:
    """Return the estimate at each clip's end; a person's clips follow each other in front of one camera."""
    estimators = {person: (GravityEstimator(), [0]) for person in people}
    found = []
    for clip, person in zip(clips, people, strict=True):
        estimator, end = estimators[person]
        for t, stamp in enumerate(clip.stamps_ns - clip.stamps_ns[0]):
            bodies = [_body(body[t]) for body in clip.bodies if np.isfinite(body[t]).any()]
            estimator.update(RgbdFrame(int(end[0] + stamp), None, None, _BLANK), bodies)
        end[0] += int(clip.stamps_ns[-1] - clip.stamps_ns[0]) + NANOSECONDS // 10
        found.append(None if estimator.up is None else estimator.up.tolist())
    return found


def _body(positions: np.ndarray) -> Body:
    known = np.isfinite(positions).all(axis=-1)
    return Body("body_1", CANONICAL, positions, np.full((25, 2), np.nan, np.float32), known.astype(np.float32))


# -- pixels ------------------------------------------------------------------------------------------------------------


def _from_pixels(
    test: Any, wanted: Sequence[tuple[Mounting, str]], args: argparse.Namespace
) -> Iterator[tuple[Mounting, str, list[Clip]]]:
    """Yield every n-th recording as the perception sees it; a person's recordings follow each other in one stream."""
    streams: dict[str, list[Clip]] = {}
    for index in range(0, len(test), args.pixels):
        streams.setdefault(str(test.entries[index].meta["subject"]), []).append(test[index])
    files = {each: _file(each, args) for each in wanted}
    tasks = [(clips, *each) for each in wanted if not files[each].is_file() for clips in streams.values()]
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        perceived = iter(tqdm(pool.imap(_perceive, tasks), total=len(tasks), unit="person", file=sys.stderr))
        for mounting, up in wanted:
            file = files[mounting, up]
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                recordings.write(file, [clip for _ in streams for clip in next(perceived)])
            yield mounting, up, recordings.read(file)


def _file(wanted: tuple[Mounting, str], args: argparse.Namespace) -> Path:
    mounting, up = wanted
    return Path(args.found) / f"{args.dataset}_{up}_{mounting.roll}_{mounting.pitch}.npz"


def _perceive(task: tuple[Sequence[Clip], Mounting, str]) -> list[Clip]:
    clips, mounting, up = task
    found: list[Clip] = []
    end = 0
    with contextlib.closing(BodyPerception(mount="level" if up == "ignored" else "auto")) as perception:
        for number, clip in enumerate(clips):
            # The first recording is repeated until `up` is estimated, which takes four seconds.
            for _ in range(9 if number == 0 and up == "estimated" else 1):
                bodies = {}
                for frame in recordings.frames(
                    clip, seed=len(clip.name), mount=partial(_turned, clip, mounting.roll, mounting.pitch)
                ):
                    frame = replace(frame, stamp_ns=end + frame.stamp_ns, up=frame.up if up == "known" else None)
                    for body in perception.process(frame)[:1]:
                        bodies[frame.stamp_ns] = body.positions
                end = frame.stamp_ns + NANOSECONDS // 10
                perception.reset()
                if perception.up is not None:
                    break
            stamps, positions = np.array(list(bodies), np.int64), np.array(list(bodies.values()), np.float32)
            if len(bodies) > 1:
                known = {} if perception.up is None or up == "ignored" else {"up": perception.up}
                found.append(Clip(clip.name, clip.label, stamps, positions[None], known))
    return found


def _turned(clip: Clip, roll_deg: float, pitch_deg: float, recorded: CameraPose) -> CameraPose:
    """Return a camera with this roll, and, unless the pitch is 0, with this pitch where the person stays in view.

    Args:
        clip: Its bodies give the distance.
        recorded: Pose of the camera that recorded it.
    """
    roll, pitch = math.radians(roll_deg), math.radians(pitch_deg)
    if not pitch_deg:
        return CameraPose(recorded.height, recorded.pitch, roll)
    distance = float(np.nanmedian(clip.bodies[0, :, 0, 2]))
    return CameraPose(max(MIN_HEIGHT_M, WAIST_M + distance * math.tan(pitch)), pitch, roll)
