"""`actrec bench estimators`, `actor`, `body-ntu`, `rendered-skeletons`, `mounting`: estimates and labels.

`mounting` scores packages on recordings of a camera that is rolled or pitched. Joints of a test part are rotated as if
the camera were turned. Pixels are rendered: recordings move the simulated actor, or a hand, before a turned camera, and
are estimated again. The direction of gravity is ignored, known, or estimated from people and floor (not from hands).
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec import cameras, datasets, inference, perception
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, amount, count, names
from actrec.datasets.base import Clip, ClipDataset
from actrec.datasets.everyday import SETS, vocabulary
from actrec.datasets.ntu.skeletons import read_ntu_file, unmirror
from actrec.inference import zoo
from actrec.perception.gravity import GravityEstimator
from actrec.perception.lifting import lift
from actrec.perception.pipeline import BodyPerception, Detection, FacePerception, HandPerception
from actrec.simulation.actions import CYCLE
from actrec.skeleton.layouts import CANONICAL, KINECT_V2_25, convert
from actrec.types import NANOSECONDS, Body, RgbdFrame
from actrec.utils import gravity
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ConfigError, EndOfStream, InputError
from actrec.utils.geometry import kinect_to_optical
from actrec_models import evaluation
from actrec_models.data import rendered_skeletons as recordings

NTU_NAME = "S001C001P001R001A001"

PRECISIONS = ("fp32", "int8")
"""Of the networks on the CPU (`NetworkConfig.cpu_precision`)."""

ROOT = KINECT_V2_25.index["spine_base"]

SHOULDERS = [KINECT_V2_25.index["shoulder_left"], KINECT_V2_25.index["shoulder_right"]]


def _arguments(name: str, text: str, arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog=f"actrec bench {name}", description=text)
    default = os.environ.get("ACTREC_DATA", "data")
    parser.add_argument("--data", type=Path, default=Path(default), help=f"folder of recorded data, default {default}")
    parser.add_argument("--frames", type=count, default=100, help="frames of each recording, default 100")
    return parser.parse_args(arguments)


def play(driver: str, count: int, **options: Any) -> Iterator[RgbdFrame]:
    """Yield up to `count` frames of a driver with these options."""
    with cameras.create(driver, **options) as camera:
        try:
            for _ in range(count):
                yield camera.read(timeout_s=10.0)
        except EndOfStream:
            return


def body_ntu(arguments: list[str]) -> dict[str, Any]:
    """Compare the estimator's joints with the Kinect's on the NTU RGB+D video in the recorded data.

    The dataset's images are mirrored. The replay driver flips them back; the images as they are show the effect of the
    mirroring. Joints that the Kinect inferred are ignored.
    """
    args = _arguments("body-ntu", "The body estimator against the Kinect v2 on one NTU RGB+D video.", arguments)
    kinect = read_ntu_file(args.data / "ntu/skeleton" / f"{NTU_NAME}.skeleton")
    video = str(args.data / "ntu/rgb" / f"{NTU_NAME}_rgb.avi")
    tracked = kinect.states[0, :, :, None] == 2
    raw = np.where(tracked, kinect.color_pixels[0], np.nan)
    positions = np.where(tracked, kinect.positions[0], np.nan)
    turned, shape, found = _against(video, "yes", unmirror(raw, 1920), positions, args.frames)
    mirrored, _, _ = _against(video, "no", raw, positions, args.frames)
    rows = [
        {
            "joint": joint,
            "px": float(np.nanmedian(turned[:, v])),
            "px_p95": float(np.nanpercentile(turned[:, v], 95)),
            "px_mirror_forgotten": float(np.nanmedian(mirrored[:, v])),
            "mm_from_spine_base": float(1e3 * np.nanmedian(shape[:, v])),
            "kinect_tracked_share": float(tracked[: len(found), v].mean()),
        }
        for v, joint in enumerate(KINECT_V2_25.joints)
    ]
    width = np.linalg.norm(raw[:, SHOULDERS[0]] - raw[:, SHOULDERS[1]], axis=-1)
    return {
        "frames": len(found),
        "detected_share": float(np.mean(found)),
        "shoulder_width_px": float(np.nanmedian(width)),
        "median_px": float(np.nanmedian(turned)),
        "median_px_mirror_forgotten": float(np.nanmedian(mirrored)),
        "median_mm_from_spine_base_without_depth": float(1e3 * np.nanmedian(shape)),
        "joints": rows,
    }


def _against(
    video: str, mirror: str, pixels: np.ndarray, positions: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    """Return distances in px [T, 25], in m from the spine base [T, 25], and whether a person was detected."""
    body = perception.create("body", num_poses=1)
    apart, shape = np.full((2, len(pixels), len(KINECT_V2_25)), np.nan)
    found = []
    for t, frame in enumerate(play("replay", min(count, len(pixels)), path=video, mirror=mirror, rate=0.0)):
        detections: list[Detection] = body.estimate(frame)
        found.append(bool(detections))
        if not detections:
            continue
        seen = detections[0]
        apart[t] = np.linalg.norm(convert(seen.pixels, seen.scores, seen.layout)[0] - pixels[t], axis=1)
        joints, _ = convert(*lift(seen.pixels, seen.world, seen.scores, None, frame.intrinsics)[:2], seen.layout)
        truth = kinect_to_optical(positions[t])
        shape[t] = np.linalg.norm((joints - joints[ROOT]) - (truth - truth[ROOT]), axis=1)
    body.close()
    return apart, shape, found


def measure(arguments: list[str]) -> dict[str, Any]:
    """Measure CPU time per frame and detections of bodies, hands and faces on several sources."""
    args = _arguments("estimators", "Time and yield of the body, hand and face estimators.", arguments)
    data = args.data
    sources: dict[str, dict[str, Any]] = {
        "simulated wave 640x480": {"driver": "simulated", "actions": ["wave"], "realtime": False},
        "person_turning 640x480": {
            "driver": "replay", "path": str(data / "rgbd/person_turning"), "depth_scale": 0.001,
            "intrinsics": "525,525,319.5,239.5", "rate": 0.0,
        },
        "NTU 1920x1080": {
            "driver": "replay", "path": str(data / "ntu/rgb" / f"{NTU_NAME}_rgb.avi"), "rate": 0.0,
        },
    }  # fmt: skip
    return {"sources": [_measured(name, args.frames, **options) for name, options in sources.items()]}


def _measured(name: str, count: int, driver: str, **options: Any) -> dict[str, Any]:
    parts = (BodyPerception(), HandPerception(), FacePerception())
    spent, found = [], []
    # All frames first, because the camera decodes or renders in another thread, whose time would count.
    for frame in list(play(driver, count, **options)):
        marks = [time.process_time()]
        bodies = parts[0].process(frame)
        marks.append(time.process_time())
        hands = parts[1].process(frame, bodies)
        marks.append(time.process_time())
        faces = parts[2].process(frame, bodies)
        marks.append(time.process_time())
        spent.append(1e3 * np.diff(marks))
        found.append(
            (len(bodies), *(sum(hand.side == side for hand in hands) for side in ("left", "right")), len(faces))
        )
    for part in parts:
        part.close()
    row: dict[str, Any] = {"source": name, "frames": len(spent)}
    for column, what in enumerate(("body", "hands", "face")):
        row[f"{what}_ms"] = float(np.mean(spent, axis=0)[column])
        row[f"{what}_ms_p95"] = float(np.percentile(spent, 95, axis=0)[column])
    row.update(zip(("bodies", "left_hands", "right_hands", "faces"), np.mean(found, axis=0).tolist(), strict=True))
    return row


LIMBS = [
    KINECT_V2_25.index[f"{joint}_{side}"]
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
]


def recognize(arguments: list[str]) -> dict[str, Any]:
    """Compare detected bodies, hands and faces of the simulated actor with the exact truth, by action."""
    parser = Parser(
        prog="actrec bench actor", description="Perception of the simulated actor against the exact truth.",
        epilog="Example: actrec bench actor --seconds 5 --actions wave throw",
    )  # fmt: skip
    parser.add_argument("--actions", nargs="+", default=[*CYCLE, "idle"], help="actions to perform (default: all)")
    parser.add_argument("--seconds", type=amount, default=5.0, help="of each action (default: 5)")
    parser.add_argument("--fps", type=amount, default=15.0, help="frames a second (default: 15)")
    args = parser.parse_args(arguments)
    return {"fps": args.fps, "actor": [_recognized(action, args.seconds, args.fps) for action in args.actions]}


def _recognized(action: str, seconds: float, fps: float) -> dict[str, Any]:
    parts = (BodyPerception(), HandPerception(), FacePerception())
    found: dict[str, list[float]] = {"body": [], "face": [], "px": [], "mm": [], "hand": [], "hand_px": []}
    with SimulatedCamera(actions=[action], realtime=False, duration=seconds, fps=fps) as camera:
        for frame in _frames(camera):
            bodies = parts[0].process(frame)
            found["body"].append(bool(bodies))
            found["face"].append(bool(parts[2].process(frame, bodies)))
            if bodies:
                truth = frame.skeletons[0]
                found["px"] += np.linalg.norm(bodies[0].pixels - truth.pixels, axis=1)[LIMBS].tolist()
                found["mm"] += (1000 * np.linalg.norm(bodies[0].positions - truth.positions, axis=1)[LIMBS]).tolist()
            hands = {hand.side: hand for hand in parts[1].process(frame, bodies)}
            for truth_hand in camera.hands():
                seen = hands.get(truth_hand.side)
                found["hand"].append(seen is not None)
                if seen is not None:
                    found["hand_px"].append(
                        float(np.nanmedian(np.linalg.norm(seen.pixels - truth_hand.pixels, axis=1)))
                    )
    for part in parts:
        part.close()
    return {
        "action": action, "frames": len(found["body"]), "body": _share(found["body"]),
        "limbs_px_p50": _at(found["px"], 50), "limbs_px_p90": _at(found["px"], 90),
        "limbs_mm_p50": _at(found["mm"], 50), "face": _share(found["face"]),
        "hands": _share(found["hand"]), "fingers_px_p50": _at(found["hand_px"], 50),
    }  # fmt: skip


def _frames(camera: SimulatedCamera) -> Iterator[RgbdFrame]:
    try:
        while True:
            yield camera.read()
    except EndOfStream:
        return


def _share(values: list[float]) -> float:
    return round(float(np.mean(values)), 3)


def _at(values: list[float], percentile: float) -> float:
    known = [value for value in values if np.isfinite(value)]
    return round(float(np.percentile(known, percentile)), 1) if known else float("nan")


OF_PACKAGES = "names or folders with commas between (default: the default one and the dataset's shipped ones)"


def _shipped(dataset: str) -> list[str]:
    """Return the default package, if it has classes of a dataset, and the packages trained on the dataset."""
    every = ((entry.name, entry.package) for entry in zoo.list_packages())
    own = [name for name, package in every if package is not None and package.provenance.dataset == dataset]
    return [*([zoo.DEFAULT] if dataset in SETS else []), *own]


def rendered_skeletons(arguments: Sequence[str]) -> dict[str, Any]:
    """Score packages on test recordings as the perception finds them in rendered images.

    Every n-th recording of N-UCLA's or UTD-MHAD's test part moves the simulated actor, rendered with sensor noise. The
    packages predict once, at its end, offline and without lost frames; `simulated-nucla` runs the live graph.
    """
    parser = Parser("actrec bench rendered-skeletons", description="Packages on rendered test recordings.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--dataset", choices=("nucla", "utd_mhad"), default="utd_mhad", help="(default: %(default)s)")
    parser.add_argument("--packages", default="", help=OF_PACKAGES)
    parser.add_argument("--every", type=count, default=6, help="take every n-th clip (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the rendering (default: 15)")
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    parser.add_argument("--color-alone", action="store_true", help="estimate without depth")
    parser.add_argument("--cpu-precision", choices=PRECISIONS, default="fp32", help="(default: %(default)s)")
    parser.add_argument(
        "--clips", type=Path, metavar="NPZ", help="save the rendered clips here, or use the ones saved here"
    )
    args = parser.parse_args(list(arguments))
    classes = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test").classes
    sessions = [_session(name, args.dataset, classes) for name in names(args.packages) or _shipped(args.dataset)]
    clips, left_out = _clips(args)
    if not clips:
        raise InputError("no person is detected in any of the clips")
    found = ClipDataset(clips, classes)
    rows = [{"package": session.package.name, **scores(session, args.dataset, found)} for session in sessions]
    return {"dataset": args.dataset, "clips": len(found), "left out": len(left_out), "packages": rows}


def _session(name: str, dataset: str, classes: Sequence[str]) -> inference.Session:
    """Load a package, which must have these classes, or the classes of `everyday` and some of the dataset's."""
    session = inference.load(name)
    if not any(_targets(session, dataset, classes)):
        raise ConfigError(f"{name} does not have the dataset's {len(classes)} classes")
    return session


def _targets(session: inference.Session, dataset: str, classes: Sequence[str]) -> list[str]:
    """Return the package's class for each of the dataset's; empty if it has none, or two, or has others' classes."""
    known = session.package.labels
    if known == tuple(classes):
        return list(known)
    if not set(known) <= set(vocabulary().classes):
        return [""] * len(classes)
    found = [[name for name, _, _ in vocabulary().actions(dataset, label, "") or ()] for label in classes]
    return [names[0] if len(names) == 1 and names[0] in known else "" for names in found]


def _clips(args: argparse.Namespace) -> tuple[list[datasets.Clip], list[str]]:
    """Return the clips with a detected person, and a line for each of the others."""
    if args.clips is not None and args.clips.is_file():
        return recordings.read(args.clips), []
    test = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test")
    how: dict[str, Any] = {"has_depth": not args.color_alone, "cpu_precision": args.cpu_precision}
    clips, left_out = recordings.estimate_all([test], args.every, args.fps, args.workers, **how)
    print("".join(f"{line}\n" for line in left_out), end="", file=sys.stderr)
    if args.clips is not None:
        recordings.write(args.clips, clips)
    return clips, left_out


def scores(session: inference.Session, dataset: str, clips: ClipDataset) -> dict[str, int]:
    """Count the clips that a package recognizes in the window at their end, of the ones whose class it has."""
    targets = _targets(session, dataset, clips.classes)
    known = clips.subset([index for index, label in enumerate(clips.labels) if targets[label]])
    wanted = np.array([session.package.labels.index(targets[label]) for label in known.labels])
    probabilities = session.softmax(evaluation.score(session, known, "live").logits)
    right = probabilities.argmax(axis=1) == wanted
    accepted = ~session.is_rejected(probabilities)
    counted = {"right": right, "right and accepted": right & accepted, "wrong and accepted": ~right & accepted}
    return {"clips": len(known), **{name: int(np.count_nonzero(which)) for name, which in counted.items()}}


# -- mounting ----------------------------------------------------------------------------------------------------------

KNOWLEDGE = ("ignored", "known", "estimated")

ROLLS, PITCHES = ",".join(map(str, range(-165, 181, 15))), "-30,-15,15,30"


@dataclass(frozen=True)
class Mounting:
    """Roll and pitch of a camera in degrees, as in `gravity.up_from_angles`."""

    roll: int
    pitch: int

    @property
    def up(self) -> np.ndarray:
        """Return the unit vector [3] against gravity in the optical frame."""
        return gravity.up_from_angles(self.roll, self.pitch)


def mounting(arguments: Sequence[str]) -> dict[str, Any]:
    """Score packages on one test part for each mounting of the camera."""
    parser = Parser("actrec bench mounting", description="Packages on recordings of a turned camera.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--dataset", default="nucla", help="(default: %(default)s)")
    parser.add_argument("--packages", default="", help=OF_PACKAGES)
    parser.add_argument("--pixels", type=count, metavar="N", help="render every N-th recording (default: joints only)")
    parser.add_argument("--rolls", type=_degrees, default=ROLLS, help="degrees (default: %(default)s)")
    parser.add_argument("--pitches", type=_degrees, default=PITCHES, help="degrees (default: %(default)s)")
    parser.add_argument("--up", choices=KNOWLEDGE, nargs="+", default=KNOWLEDGE, help="(default: all)")
    parser.add_argument("--ups", type=Path, metavar="JSON", help="write the estimated directions here, or, for a "
                        "dataset of hands, read the ones of a dataset of people")  # fmt: skip
    parser.add_argument("--found", type=Path, default=Path("runs/mounting"), metavar="FOLDER", help="of skeletons "
                        "found in pixels; existing ones of this N are only scored (default: %(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    args = parser.parse_args(list(arguments))
    test = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test")
    sessions = [_session(name, args.dataset, test.classes) for name in names(args.packages) or _shipped(args.dataset)]
    turned = [*(Mounting(roll, 0) for roll in args.rolls), *(Mounting(0, pitch) for pitch in args.pitches)]
    mountings = [Mounting(0, 0), *(each for each in turned if each.roll or each.pitch)]
    if not args.pixels:
        rows = _from_joints(test, sessions, mountings, args)
    else:
        ups = [up for up in args.up if test.layout == CANONICAL or up != "estimated"]
        found = _from_pixels(test, [(mounting, up) for up in ups for mounting in mountings], args)
        rows = [_row(mounting, up, clips, test, sessions, args.dataset) for mounting, up, clips in found if sessions]
    return {"dataset": args.dataset, "from": "pixels" if args.pixels else "joints", "mountings": rows}


def _degrees(text: str) -> list[int]:
    return list(map(int, names(text)))


def _row(
    mounting: Mounting, up: str, clips: Sequence[Clip], test: Any, sessions: Sequence[inference.Session], dataset: str
) -> dict[str, Any]:
    row: dict[str, Any] = {"roll": mounting.roll, "pitch": mounting.pitch, "up": up, "clips": len(clips)}
    found = ClipDataset(clips, test.classes, test.layout)
    for session in sessions:
        counted = scores(session, dataset, found)
        row[session.package.name] = counted["right"]
        if counted["clips"] < len(clips):
            row[f"{session.package.name} clips"] = counted["clips"]
        row[f"{session.package.name} accepted"] = counted["right and accepted"]
    roll, pitch = np.median([_angles(clip) for clip in clips], axis=0) if up != "ignored" else (0.0, 0.0)
    return {**row, "median up": f"{roll:.1f}, {pitch:.1f}"}


def _angles(clip: Clip) -> tuple[float, float]:
    return gravity.angles_from_up(clip.streams.get("up", np.array(gravity.LEVEL)))


# -- joints ------------------------------------------------------------------------------------------------------------


def _from_joints(
    test: Any, sessions: Sequence[inference.Session], mountings: Sequence[Mounting], args: argparse.Namespace
) -> list[dict[str, Any]]:
    ups, file = args.up, args.ups
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
            rows.append(_row(mounting, up, found, test, sessions, args.dataset))
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
            estimator.update(RgbdFrame(int(end[0] + stamp), None, None, KINECT_V1), bodies)
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
        perceive = _perceive if test.layout == CANONICAL else _perceive_hands
        perceived = iter(tqdm(pool.imap(perceive, tasks), total=len(tasks), unit="person", file=sys.stderr))
        for mounting, up in wanted:
            file = files[mounting, up]
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                recordings.write(file, [clip for _ in streams for clip in next(perceived)])
            yield mounting, up, recordings.read(file, test.layout)


def _file(wanted: tuple[Mounting, str], args: argparse.Namespace) -> Path:
    mounting, up = wanted
    return Path(args.found) / f"{args.dataset}_{args.pixels}_{up}_{mounting.roll}_{mounting.pitch}.npz"


def _perceive(task: tuple[Sequence[Clip], Mounting, str]) -> list[Clip]:
    clips, mounting, up = task
    angles = math.radians(mounting.roll), math.radians(mounting.pitch)
    found: list[Clip] = []
    end = 0
    with contextlib.closing(BodyPerception(mount="level" if up == "ignored" else "auto")) as perception:
        for number, clip in enumerate(clips):
            # The first recording is repeated until `up` is estimated, which takes four seconds.
            for _ in range(9 if number == 0 and up == "estimated" else 1):
                bodies = {}
                for frame in recordings.frames(
                    clip, seed=len(clip.name), mount=partial(recordings.aimed, clip, *angles)
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


def _perceive_hands(task: tuple[Sequence[Clip], Mounting, str]) -> list[Clip]:
    clips, mounting, up = task
    angles = math.radians(mounting.roll), math.radians(mounting.pitch)
    found = [recordings.estimate_hand(clip, *angles, up == "known") for clip in clips]
    return [clip for clip in found if clip is not None]
