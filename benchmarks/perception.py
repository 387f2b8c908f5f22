"""Benchmarks of the estimators: speed and yield, MediaPipe against the Kinect, the simulated camera and its actor."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras, datasets, inference, perception
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, amount, count
from actrec.datasets.base import ClipDataset
from actrec.datasets.ntu.skeletons import read_ntu_file, unmirror
from actrec.perception.lifting import lift
from actrec.perception.pipeline import BodyPerception, Detection, FacePerception, HandPerception
from actrec.simulation.actions import CYCLE
from actrec.skeleton.layouts import KINECT_V2_25, convert
from actrec.types import RgbdFrame
from actrec.utils.errors import ConfigError, EndOfStream, InputError
from actrec.utils.geometry import kinect_to_optical
from actrec_models import evaluation
from actrec_models.data import rendered_skeletons as recordings

NTU_NAME = "S001C001P001R001A001"

ROOT = KINECT_V2_25.index["spine_base"]

SHOULDERS = [KINECT_V2_25.index["shoulder_left"], KINECT_V2_25.index["shoulder_right"]]


def _arguments(name: str, text: str, arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog=f"actrec bench {name}", description=text)
    default = os.environ.get("ACTREC_DATA", "data")
    parser.add_argument("--data", type=Path, default=Path(default), help=f"folder of recorded data, default {default}")
    parser.add_argument("--frames", type=count, default=100, help="frames of each recording, default 100")
    return parser.parse_args(arguments)


def _play(driver: str, count: int, **options: Any) -> Iterator[RgbdFrame]:
    with cameras.create(driver, **options) as camera:
        try:
            for _ in range(count):
                yield camera.read(timeout_s=10.0)
        except EndOfStream:
            return


def mediapipe_ntu(arguments: list[str]) -> dict[str, Any]:
    """Compare MediaPipe's joints with the Kinect's on the NTU RGB+D video in the recorded data.

    The dataset's images are mirrored. The replay driver flips them back; the images as they are show the effect of the
    mirroring. Joints that the Kinect inferred are ignored.
    """
    args = _arguments("mediapipe-ntu", "MediaPipe against the Kinect v2 on one NTU RGB+D video.", arguments)
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
    for t, frame in enumerate(_play("replay", min(count, len(pixels)), path=video, mirror=mirror, rate=0.0)):
        detections: list[Detection] = body.estimate(frame)
        found.append(bool(detections))
        if not detections:
            continue
        seen = detections[0]
        apart[t] = np.linalg.norm(convert(seen.pixels, seen.scores, seen.layout)[0] - pixels[t], axis=1)
        joints, _ = convert(*lift(seen.pixels, seen.world, seen.scores, None, frame.intrinsics), seen.layout)
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
    for frame in list(_play(driver, count, **options)):
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

_CASES = ((1, False), (1, True), (2, False), (2, True))


def measure_renderer(arguments: list[str]) -> dict[str, Any]:
    """Measure frames per second of processor time for one and two actors, without and with sensor noise."""
    parser = Parser(
        prog="actrec bench renderer", description="Speed of the simulated camera on one core.",
        epilog="Example: actrec bench renderer --frames 300 --json",
    )  # fmt: skip
    parser.add_argument("--frames", type=count, default=300, help="frames a case (default: 300)")
    parser.add_argument("--width", type=count, default=640)
    parser.add_argument("--height", type=count, default=480)
    parser.add_argument("--sensor", default="structured_light", help="noise model of the depth sensor")
    args = parser.parse_args(arguments)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        rows = [_case(args, actors, noise) for actors, noise in _CASES]
    finally:
        cv2.setNumThreads(threads)
    return {"size": f"{args.width}x{args.height}", "frames": args.frames, "renderer": rows}


def _case(args: argparse.Namespace, actors: int, noise: bool) -> dict[str, Any]:
    options = {"width": args.width, "height": args.height, "sensor": args.sensor, "actors": actors, "noise": noise}
    with SimulatedCamera(realtime=False, **options) as camera:
        camera.read()
        spent, began = time.process_time(), time.perf_counter()
        for _ in range(args.frames):
            camera.read()
        spent, wall = time.process_time() - spent, time.perf_counter() - began
    return {
        "actors": actors, "noise": "on" if noise else "off", "fps_of_one_core": round(args.frames / spent, 1),
        "ms_a_frame": round(1000 * spent / args.frames, 2), "fps_by_the_clock": round(args.frames / wall, 1),
    }  # fmt: skip


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


PACKAGES = {
    "nucla": "deepacts_graph_nucla,deepacts_graph_motion_nucla",
    "utd_mhad": "sem_net_utd_mhad,deepacts_graph_utd_mhad",
}


def rendered_skeletons(arguments: Sequence[str]) -> dict[str, Any]:
    """Score packages on test recordings as the perception finds them in rendered images.

    Every n-th recording of N-UCLA's or UTD-MHAD's test part moves the simulated actor, rendered with sensor noise. The
    packages predict once, at its end, offline and without lost frames; `simulated-nucla` runs the live graph.
    """
    parser = Parser("actrec bench rendered-skeletons", description="Packages on rendered test recordings.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    parser.add_argument("--dataset", choices=tuple(PACKAGES), default="utd_mhad", help="(default: %(default)s)")
    parser.add_argument("--packages", help="names or folders with commas between (default: the dataset's shipped ones)")
    parser.add_argument("--every", type=count, default=6, help="take every n-th clip (default: %(default)s)")
    parser.add_argument("--fps", type=amount, default=15.0, help="of the rendering (default: 15)")
    parser.add_argument("--workers", type=count, default=2, help="processes that render (default: %(default)s)")
    parser.add_argument(
        "--clips", type=Path, metavar="NPZ", help="save the rendered clips here, or use the ones saved here"
    )
    args = parser.parse_args(list(arguments))
    classes = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test").classes
    names = (args.packages or PACKAGES[args.dataset]).split(",")
    sessions = [_session(name, classes) for name in names]
    clips, left_out = _clips(args)
    if not clips:
        raise InputError("no person is detected in any of the clips")
    found = ClipDataset(clips, classes)
    rows = [{"package": session.package.name, **scores(session, found)} for session in sessions]
    return {"dataset": args.dataset, "clips": len(found), "left out": len(left_out), "packages": rows}


def _session(name: str, classes: Sequence[str]) -> inference.Session:
    """Load a package, which must have these classes."""
    session = inference.load(name)
    if session.package.labels != tuple(classes):
        raise ConfigError(f"{name} does not have the dataset's {len(classes)} classes")
    return session


def _clips(args: argparse.Namespace) -> tuple[list[datasets.Clip], list[str]]:
    """Return the clips with a detected person, and a line for each of the others."""
    if args.clips is not None and args.clips.is_file():
        return recordings.read(args.clips), []
    test = datasets.create(args.dataset, datasets.folder(args.data, args.dataset), part="test")
    clips, left_out = recordings.estimate_all(test, args.every, args.fps, args.workers)
    print("".join(f"{line}\n" for line in left_out), end="", file=sys.stderr)
    if args.clips is not None:
        recordings.write(args.clips, clips)
    return clips, left_out


def scores(session: inference.Session, clips: ClipDataset) -> dict[str, int]:
    """Count the clips that a package recognizes in the window at their end."""
    probabilities = session.softmax(evaluation.score(session, clips, "live").logits)
    right = probabilities.argmax(axis=1) == clips.labels
    accepted = probabilities.max(axis=1) >= session.package.rejection.threshold
    counted = {"right": right, "right and accepted": right & accepted, "wrong and accepted": ~right & accepted}
    return {name: int(np.count_nonzero(which)) for name, which in counted.items()}
