"""`actrec bench agreement`: landmarks of the networks in float32 and in INT8, against each other and the truth.

Both precisions see the same frames: recorded ones, and ones that the simulated camera renders, with exact joints. On
the NTU RGB+D video, the truth are the joints that the Kinect tracked. Detections of two estimators in a frame are
matched by distance; a pair is exchanged if it fits better with left and right exchanged, or is a hand of another side.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from actrec import perception
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, count, names
from actrec.datasets.ntu.skeletons import read_ntu_file, unmirror
from actrec.perception.pipeline import BodyPerception, FacePerception, HandPerception
from actrec.simulation.actions import CYCLE
from actrec.skeleton.layouts import CANONICAL, LAYOUTS, convert
from actrec.types import RgbdFrame
from actrec.utils.errors import ConfigError
from benchmarks.perception import LIMBS, NTU_NAME, play

KINDS = ("body", "hand", "face")

PRECISIONS = ("fp32", "int8")

RECORDED: dict[str, dict[str, Any]] = {
    "ntu": {"path": f"ntu/rgb/{NTU_NAME}_rgb.avi", "mirror": "yes"},
    "people_1080p": {"path": "videos/people_1080p.mp4", "hfov_deg": 65.0},
    "street_720p": {"path": "videos/street_720p.avi", "hfov_deg": 65.0},
    "person_turning": {"path": "rgbd/person_turning", "depth_scale": 0.001, "intrinsics": "525,525,319.5,239.5"},
    "hand_palm": {"path": "rgbd/realsense_hands/G06_palm_clip01", "intrinsics": "615,615,319.5,239.5"},
    "hand_stop": {"path": "rgbd/realsense_hands/G09_stop_clip01", "intrinsics": "615,615,319.5,239.5"},
}
"""Options of the replay driver, with the path in the recorded data."""

RENDERED = (*CYCLE, "idle")

RENDERED_HZ = 10.0

VISIBLE = 0.5
"""Least score of a body's landmark that is compared."""

SAME = 0.5
"""Largest mean distance of two detections of one thing, of the extent of the first."""


@dataclass(frozen=True)
class Found:
    """A body, hand or face in an image: pixels [V, 2], scores [V], and the side of a hand."""

    pixels: np.ndarray
    scores: np.ndarray
    side: str = ""


@dataclass
class Frames:
    """Frames of one source, with the true bodies and hands of each if they are known."""

    name: str
    frames: list[RgbdFrame]
    truth: dict[str, list[list[Found]]] = field(default_factory=dict)


@dataclass
class Errors:
    """Distances in pixels of matched landmarks, and counts."""

    wanted: int = 0
    seen: int = 0
    matched: int = 0
    exchanged: int = 0
    distances: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Return the figures; distances are NaN without a match."""
        near, far = np.percentile(self.distances, (50, 95)) if self.distances else (np.nan, np.nan)
        share = self.matched / max(self.wanted, 1)
        counts = {"wanted": self.wanted, "seen": self.seen, "found": share}
        return {**counts, "px": float(near), "px_p95": float(far), "exchanged": self.exchanged}


def agreement(arguments: Sequence[str]) -> dict[str, Any]:
    """Compare bodies, hands and faces of the networks in float32 and in INT8."""
    parser = Parser("actrec bench agreement", description="Landmarks in float32 and INT8, and against the truth.")
    default = os.environ.get("ACTREC_DATA", "data")
    parser.add_argument("--data", type=Path, default=Path(default), help=f"folder of recorded data, default {default}")
    parser.add_argument("--sources", type=names, default=[*RECORDED, "rendered"], help="(default: all)")
    parser.add_argument("--frames", type=count, default=500, help="of each source, at most (default: %(default)s)")
    args = parser.parse_args(list(arguments))
    if unknown := [name for name in args.sources if name not in (*RECORDED, "rendered")]:
        raise ConfigError(f"--sources has '{unknown[0]}'; known: {', '.join(RECORDED)}, rendered")
    rows: list[dict[str, Any]] = []
    for source in sources(args):
        found = {precision: detect(source, cpu_precision=precision) for precision in PRECISIONS}
        rows += compared(source, found)
    return {"compared": rows}


def sources(args: argparse.Namespace) -> Iterator[Frames]:
    """Yield the frames of the chosen sources."""
    for name in args.sources:
        if name == "rendered":
            yield _rendered(args.frames)
            continue
        options = RECORDED[name]
        path = str(args.data / options["path"])
        source = Frames(name, list(play("replay", args.frames, **{**options, "path": path}, rate=0.0)))
        if name == "ntu":
            source.truth["body"] = _kinect(args.data / "ntu/skeleton" / f"{NTU_NAME}.skeleton", len(source.frames))
        yield source


def _rendered(number: int) -> Frames:
    """Return `number` frames of the simulated camera, in equal parts of all actions, with exact limbs and hands."""
    source = Frames("rendered", [], {"body": [], "hand": []})
    counts = np.diff(np.linspace(0, number, len(RENDERED) + 1).astype(int)).tolist()
    for seed, (action, frames) in enumerate(zip(RENDERED, counts, strict=True)):
        with SimulatedCamera(actions=[action], realtime=False, fps=RENDERED_HZ, seed=seed) as camera:
            for _ in range(frames):
                frame = camera.read()
                source.frames.append(frame)
                pixels = np.full((25, 2), np.nan, np.float32)
                pixels[LIMBS] = frame.skeletons[0].pixels[LIMBS]
                source.truth["body"].append([Found(pixels, np.ones(25))])
                source.truth["hand"].append([Found(hand.pixels, np.ones(21), hand.side) for hand in camera.hands()])
    return source


def _kinect(file: Path, frames: int) -> list[list[Found]]:
    """Return the tracked joints of the person in the NTU RGB+D video, in the images as the driver turns them."""
    kinect = read_ntu_file(file)
    tracked = kinect.states[0, :, :, None] == 2
    pixels = unmirror(np.where(tracked, kinect.color_pixels[0], np.nan), 1920)
    return [[Found(each, np.ones(25))] for each in pixels[:frames]]


def detect(source: Frames, **options: Any) -> dict[str, list[list[Found]]]:
    """Return the detections in each frame by kind; hands and faces belong to bodies, if there are any."""
    estimator = perception.create("body", **options)
    bodies, hands, faces = BodyPerception(**options), HandPerception(**options), FacePerception(**options)
    found: dict[str, list[list[Found]]] = {kind: [] for kind in KINDS}
    for frame in source.frames:
        people = bodies.process(frame)
        found["body"].append([Found(each.pixels, each.scores) for each in estimator.estimate(frame)])
        found["hand"].append([Found(each.pixels, each.scores, each.side) for each in hands.process(frame, people)])
        found["face"].append([Found(each.pixels, each.scores) for each in faces.process(frame, people)])
    for part in (estimator, bodies, hands, faces):
        part.close()
    return found


def compared(source: Frames, found: Mapping[str, Mapping[str, Sequence[Sequence[Found]]]]) -> list[dict[str, Any]]:
    """Return a row for each kind and pair of estimators, the first of which is the reference, and for the truth.

    Args:
        source: The frames.
        found: By name of the estimator: by kind and frame.
    """
    rows = []
    estimators = list(found)
    pairs = [(first, second) for index, first in enumerate(estimators) for second in estimators[index + 1 :]]
    for kind in KINDS:
        known: Mapping[str, Any] = {"truth": source.truth} if kind in source.truth else {}
        for first, second in [*(("truth", name) for name in (estimators if known else ())), *pairs]:
            errors = Errors()
            for wanted, seen in zip({**found, **known}[first][kind], found[second][kind], strict=True):
                _match(wanted, seen, errors)
            if errors.wanted or errors.seen:
                row = {"source": source.name, "kind": kind, "reference": first, "of": second}
                rows.append({**row, "frames": len(source.frames), **errors.row()})
    return rows


def _match(wanted: Sequence[Found], seen: Sequence[Found], errors: Errors) -> None:
    """Add the detections of one frame; landmarks are compared that the first of a pair, the reference, sees."""
    errors.wanted += len(wanted)
    errors.seen += len(seen)
    as_wanted = [[_same_layout(b, len(a.pixels)) for b in seen] for a in wanted]
    costs = np.array([[_distance(a, b) for b in row] for a, row in zip(wanted, as_wanted, strict=True)])
    if not costs.size:
        return
    for row, column in zip(*linear_sum_assignment(costs), strict=True):
        a, b = wanted[row], as_wanted[row][column]
        if costs[row, column] >= SAME:
            continue
        layout = {25: CANONICAL, 33: "mediapipe_33"}.get(len(a.pixels))
        shown = a.scores >= (0.0 if layout is None else VISIBLE)
        apart = np.linalg.norm(a.pixels - b.pixels, axis=1)[shown]
        errors.matched += 1
        errors.distances += apart[np.isfinite(apart)].tolist()
        if layout is None:
            errors.exchanged += a.side != b.side
        else:
            other = np.linalg.norm(a.pixels - b.pixels[list(LAYOUTS[layout].mirror)], axis=1)[shown]
            errors.exchanged += bool(np.nansum(other) < np.nansum(apart))


def _same_layout(found: Found, joints: int) -> Found:
    """Return a body of 33 landmarks as the 25 joints that the truth has."""
    if joints != 25 or len(found.pixels) != 33:
        return found
    return Found(*convert(found.pixels, found.scores, "mediapipe_33", CANONICAL))


def _distance(a: Found, b: Found) -> float:
    """Return the mean distance of the landmarks of two detections, of the extent of the first."""
    extent = float(np.linalg.norm(np.nanmax(a.pixels, axis=0) - np.nanmin(a.pixels, axis=0)))
    return float(np.nanmean(np.linalg.norm(a.pixels - b.pixels, axis=1))) / max(extent, 1.0)
