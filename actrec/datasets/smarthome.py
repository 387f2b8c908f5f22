"""Toyota Smarthome (Das et al., ICCV 2019): skeletons that LCR-Net++ found in color video, 13 joints a person.

A file is `{"frames": [[person, …], …]}`, one list a video frame; a person has `pose2d`, 13 u then 13 v in px of the
640×480 image, `pose3d`, 13 x then y then z in meters about the person, and `cumscore`, the estimator's confidence.
The second release chose each joint among three estimators, some of which write (0, 0) for missing joints, and lifted
the track to 3D with these zeros, so poses near missing frames can be wrong.

The axes of `pose3d` are found from the image: in the right orientation a pose projects onto its own pixels. Usually the
axes are parallel to the image's (y of LCR-Net is up); poses lifted in another camera's frame get the rotation that fits
best. It is never a reflection, since the estimators distinguish left and right. The position of a person follows from
fitting the pose to `pose2d`.

The trimmed dataset has 31 activities of daily living, 18 subjects and 7 cameras.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.ndimage import median_filter
from scipy.optimize import linear_sum_assignment

from actrec.datasets.base import Clip, Entry, Kind, Source, find_files
from actrec.datasets.video_streams import ColorVideo, VideoConfig, joint_streams
from actrec.skeleton import layouts
from actrec.skeleton.layouts import convert
from actrec.skeleton.sequence import FARTHEST_M, SkeletonSequence, read_text, stamps_at
from actrec.skeleton.shape_fits import MIN_POINTS, fit_translation
from actrec.types import RgbdFrame
from actrec.utils import config
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError

LAYOUT = "lcrnet_13"
JOINTS = 13
IMAGE_SIZE = (640, 480)
CLASSES = (
    "Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Cutbread", "Drink.Frombottle",
    "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack", "Enter", "Getup", "Laydown",
    "Leave", "Makecoffee.Pourgrains", "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag",
    "Pour.Frombottle", "Pour.Fromcan", "Pour.Fromkettle", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetablet", "Usetelephone", "Walk", "WatchTV",
)  # fmt: skip

_NAME = re.compile(r"([A-Za-z.]+)_p(\d+)_r(\d+)_v(\d+)_c(\d+)")
_MISSING = (0.0, -1.0)
"""Values of both u and v of a missing joint."""

_LIMITS = {"pose2d": 1e5, "pose3d": FARTHEST_M}
"""px, m: upper bounds of valid numbers."""

_TRUNK_M = (0.2, 1.0)
"""m, range of the median trunk length (hips to shoulders); other values are not in meters."""

_MAX_RESIDUAL = 0.4
"""Largest share of the pixels' variance that the poses do not explain, median over the poses."""

_ROTATION_RESIDUAL = 0.1
"""Residual above which a general rotation is fitted."""

_ROUNDS = 10
_GATE_M, _SPEED_M_S = 1.0, 1.5
"""Tracking gate: a distance, plus a distance per second without a detection."""

_AXIS_WEIGHTS = np.array([1.0, 1.0, 0.25])
"""Weight of each axis in the tracking distance: depth from a single image is uncertain."""

_FILTER_FRAMES = 9
"""Frames of the median filter of positions: depth from a single image errs by decimeters."""


@dataclass(frozen=True)
class SmarthomeConfig(VideoConfig):
    """Options of Toyota Smarthome."""

    fps: float = setting(20.0, "frames a second of the trimmed videos", unit="Hz", range=(1.0, 240.0))
    bodies: int = setting(2, "largest number of people, the longest observed first", range=(1, 8))
    activities: str = setting(
        "all",
        "all 31 activities, or the 19 of the cross-view splits as the only classes",
        choices=("all", "cross_view"),
    )
    release: str = setting(
        "refined",
        "preferred skeletons if both releases exist: refined (…_pose3d.json, 1.2) or first (1.1)",
        choices=("refined", "first"),
    )


def parse_name(name: str) -> dict[str, Any]:
    """Parse activity, subject, recording, video and camera from "Activity_pPP_rRR_vVV_cCC"; empty for another name."""
    match = _NAME.match(name)
    if not match:
        return {}
    numbers = map(int, match.groups()[1:])
    return {"activity": match[1], **dict(zip(("subject", "recording", "video", "camera"), numbers, strict=True))}


def read_smarthome(path: str | Path, options: SmarthomeConfig | None = None) -> SkeletonSequence:
    """Read one file to the data contract: tracked bodies in the optical frame, the longest observed first.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated, corrupt, of another form, without 3D poses, or has no body.
    """
    path, options = Path(path), options or config.build(SmarthomeConfig)
    try:
        frames = json.loads(read_text(path))["frames"]
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"'{path}' is truncated or not JSON; copy it again ({error})") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"'{path}' holds no 'frames': it is not a Toyota Smarthome skeleton file") from error
    if not isinstance(frames, list) or not frames:
        raise InputError(f"'{path}' holds no frames; copy it again")
    people = [_people(f"'{path}': frame {t}", frame) for t, frame in enumerate(frames, start=1)]
    if not any(len(found.scores) for found in people):
        raise InputError(f"'{path}' has no body in {len(people)} frames; remove it")
    axes = _find_axes(path, np.concatenate([p.poses for p in people]), np.concatenate([p.pixels for p in people]))
    tracks = _track_people([_place_people(found, axes) for found in people], 1.0 / options.fps)[: options.bodies]
    if not tracks:
        raise InputError(f"'{path}': no pose in front of the camera projects to its pixels; remove it")
    return _sequence(path, tracks, len(people), options.fps)


class _People(NamedTuple):
    """The people in one frame: poses [N, 13, 3] m, pixels [N, 13, 2], NaN for missing, scores [N]."""

    poses: np.ndarray
    pixels: np.ndarray
    scores: np.ndarray


Track = dict[int, tuple[np.ndarray, np.ndarray, float]]
"""Track of a person: frame to joints [13, 3] in the optical frame, [13, 2] px, NaN for missing, and score."""


def _people(place: str, frame: Any) -> _People:
    """Convert the persons of a frame; errors start with `place`."""
    if not isinstance(frame, list):
        raise InputError(f"{place} is not a list of persons; copy the file again")
    poses, pixels, scores = [], [], []
    for person in frame:
        seen, pose = _values(place, person, "pose2d", 2), _values(place, person, "pose3d", 3)
        seen[(seen == seen[:, :1]).all(axis=1) & np.isin(seen[:, 0], _MISSING)] = np.nan
        known = seen[np.isfinite(seen).all(axis=1)]
        if len(known) < MIN_POINTS or not np.ptp(known, axis=0).any():  # too few joints for a position
            continue
        pixels.append(seen)
        poses.append(pose)
        score = person.get("cumscore")
        scores.append(float(score) if isinstance(score, (int, float)) else 1.0)  # the refined skeletons have none
    return _People(np.reshape(poses, (-1, JOINTS, 3)), np.reshape(pixels, (-1, JOINTS, 2)), np.array(scores))


def _values(place: str, person: Any, key: str, dimensions: int) -> np.ndarray:
    """Return the numbers [13, D] of one person, stored coordinate by coordinate."""
    if not isinstance(person, dict) or key not in person:
        remedy = ": take the skeletons with 3D poses" if key == "pose3d" else ""
        raise InputError(f"{place} has a person without '{key}'{remedy}")
    try:
        values = np.array(person[key], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}, '{key}' has values that are not numbers ({error}); copy the file again") from error
    if values.shape != (dimensions * JOINTS,) or not (np.abs(values) < _LIMITS[key]).all():
        raise InputError(
            f"{place}, '{key}' has shape {list(values.shape)} or is not finite, or too large, expected "
            f"{dimensions} × {JOINTS} numbers below {_LIMITS[key]:g}"
        )
    return values.reshape(dimensions, JOINTS).T


def _find_axes(path: Path, poses: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] from `pose3d` [N, 13, 3] to the optical frame (see the module); check the unit."""
    index = layouts.get(LAYOUT).index
    hips, shoulders = (
        poses[:, [index[f"{joint}_left"], index[f"{joint}_right"]]].mean(axis=1) for joint in ("hip", "shoulder")
    )
    trunk = float(np.median(np.linalg.norm(shoulders - hips, axis=1)))
    if not _TRUNK_M[0] <= trunk <= _TRUNK_M[1]:
        raise InputError(
            f"'{path}': the trunk measures {trunk:.3g}, expected {_TRUNK_M[0]} to {_TRUNK_M[1]}: 'pose3d' is not in "
            "meters"
        )
    known = np.isfinite(pixels).all(axis=-1, keepdims=True)
    counts = known.sum(axis=1, keepdims=True)
    means = (np.where(known, points, 0).sum(axis=1, keepdims=True) / counts for points in (poses, pixels))
    poses, pixels = (np.where(known, points - mean, 0) for points, mean in zip((poses, pixels), means, strict=True))
    flips = [np.diag([x, y, x * y]) for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
    residual, turn = min(((_residual(poses, pixels, flip), flip) for flip in flips), key=lambda found: found[0])
    if residual > _ROTATION_RESIDUAL:
        fitted = _rotation(poses, pixels, turn)
        if (better := _residual(poses, pixels, fitted)) < residual / 2:
            residual, turn = better, fitted
    if not residual <= _MAX_RESIDUAL:
        raise InputError(
            f"'{path}': 'pose3d' does not project to 'pose2d' ({residual:.0%} of its variance unexplained): they are "
            "of different persons or of another format"
        )
    return turn


def _project_and_scale(poses: np.ndarray, pixels: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the projected poses [N, 13, 2] and their best scales [N, 1, 1] px/m."""
    seen = (poses @ turn.T)[..., :2]
    scales = (seen * pixels).sum(axis=(1, 2)) / np.maximum((seen**2).sum(axis=(1, 2)), 1e-9)
    return seen, np.maximum(scales, 0.0)[:, None, None]


def _residual(poses: np.ndarray, pixels: np.ndarray, turn: np.ndarray) -> float:
    """Return the share of the pixels' variance that the rotated poses do not explain, median over the N poses."""
    seen, scales = _project_and_scale(poses, pixels, turn)
    residual = ((pixels - scales * seen) ** 2).sum(axis=(1, 2)) / np.maximum((pixels**2).sum(axis=(1, 2)), 1e-9)
    return float(np.median(residual))


def _rotation(poses: np.ndarray, pixels: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] that best fits all poses to their pixels, each at its own scale."""
    points = poses.reshape(-1, 3)
    sizes = np.sqrt((poses**2).sum(axis=(1, 2)) / np.maximum((pixels**2).sum(axis=(1, 2)), 1e-9))[:, None, None]
    for _ in range(_ROUNDS):
        rows = np.linalg.lstsq(points, (pixels * sizes).reshape(-1, 2), rcond=1e-3)[0].T  # (2, 3)
        u, _, v = np.linalg.svd(rows, full_matrices=False)
        right, down = u @ v  # the orthonormal rows nearest to it
        turn = np.stack([right, down, np.cross(right, down)])
        scales = _project_and_scale(poses, pixels, turn)[1]
        sizes = 1 / np.maximum(scales, 1e-3 * scales.max() + 1e-9)
    return turn


def _place_people(found: _People, axes: np.ndarray) -> _People:
    """Return the people whose position in the camera's frame can be determined, at that position."""
    k, weights = KINECT_V1, np.ones(JOINTS)
    rays = np.dstack([(found.pixels - [k.cx, k.cy]) / [k.fx, k.fy], np.ones(found.pixels.shape[:2])])
    placed = [fit_translation(pose @ axes.T, ray, weights) for pose, ray in zip(found.poses, rays, strict=True)]
    kept = [n for n, pose in enumerate(placed) if np.isfinite(pose).all()]
    return _People(np.reshape([placed[n] for n in kept], (-1, JOINTS, 3)), found.pixels[kept], found.scores[kept])


def _track_people(people: list[_People], spacing_s: float) -> list[Track]:
    """Track people from frame to frame by distance; the longest observed first."""
    tracks: list[Track] = []
    for t, found in enumerate(people):
        pairs = []
        if tracks and len(found.scores):
            last = [max(track) for track in tracks]
            known = np.array([tracks[m][at][0].mean(axis=0) for m, at in enumerate(last)])
            away = np.linalg.norm((known[:, None] - found.poses.mean(axis=1)[None]) * _AXIS_WEIGHTS, axis=-1)
            gate = _GATE_M + _SPEED_M_S * spacing_s * (t - np.array(last) - 1)
            pairs = [(m, n) for m, n in zip(*linear_sum_assignment(away), strict=True) if away[m, n] <= gate[m]]
        owner = {n: m for m, n in pairs}
        for n, score in enumerate(found.scores):
            if n not in owner:
                owner[n] = len(tracks)
                tracks.append({})
            tracks[owner[n]][t] = (found.poses[n], found.pixels[n], float(score))
    return sorted(tracks, key=lambda track: -sum(max(score, 1e-3) for _, _, score in track.values()))


def _filter_positions(track: Track) -> np.ndarray:
    """Return the poses [N, 13, 3] of a track at median-filtered positions."""
    poses = np.stack([joints for joints, _, _ in track.values()])
    places = poses.mean(axis=1, keepdims=True)
    return poses - places + median_filter(places, (_FILTER_FRAMES, 1, 1), mode="nearest")


def _sequence(path: Path, tracks: list[Track], frames: int, fps: float) -> SkeletonSequence:
    joints = np.full((len(tracks), frames, JOINTS, 3), np.nan, np.float32)
    pixels = np.full((len(tracks), frames, JOINTS, 2), np.nan, np.float32)
    for m, track in enumerate(tracks):
        at = list(track)
        joints[m, at], pixels[m, at] = _filter_positions(track), [px for _, px, _ in track.values()]
    # Poses are complete, but a joint missing in the image was lifted from a wrong position.
    joints[~np.isfinite(pixels).all(axis=-1)] = np.nan
    known = np.asarray(np.isfinite(joints).all(axis=-1), np.float32)
    bodies, scores = convert(joints, known, LAYOUT)
    placed, _ = convert(pixels, known, LAYOUT)
    ids = tuple(f"body_{m + 1}" for m in range(len(tracks)))
    meta = {"format": "smarthome", "fps": fps, "image_size": IMAGE_SIZE, **parse_name(path.stem)}
    activity, match = meta.get("activity"), _NAME.match(path.stem)
    label = CLASSES.index(activity) + 1 if activity in CLASSES else None
    name = match[0] if match else path.stem
    return SkeletonSequence(name, stamps_at(fps, frames), bodies, scores, placed, ids, label, meta)


CLASSES_CROSS_VIEW = (
    "Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack",
    "Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetablet", "Usetelephone", "Walk",
)  # fmt: skip
"""The 19 activities recorded from several views."""

SUBJECTS = frozenset({3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25})
"""Training subjects (11 of 18) of "cross_subject"."""

CAMERAS = {"cross_view_1": frozenset({1}), "cross_view_2": frozenset({1, 3, 4, 6, 7})}
"""Training cameras of each split."""

TEST_CAMERA = 2
"""Test camera of both splits. Camera 5 is their validation set, which is not used."""

VIDEOS = frozenset({".mp4", ".avi"})
REFINED = "_pose3d"
"""Suffix of the skeleton files of the second release."""

logger = logging.getLogger(__name__)


class Smarthome(Source):
    """Splits "cross_subject", "cross_view_1" and "cross_view_2".

    The root holds, in any folders, the skeletons (`Activity_pPP_rRR_vVV_cCC.json`, second release with `_pose3d`)
    and, if available, videos of the same names (.mp4); depth videos are ignored. The cross-view splits have 19
    activities: clips of the other 12 are in neither part. With `activities="cross_view"` these 19 are the only classes,
    as in the papers; with "all" a network has 12 unused outputs. Options are the fields of `SmarthomeConfig`.
    """

    splits: ClassVar = ("cross_subject", "cross_view_1", "cross_view_2")
    measure: ClassVar = "mean_class_accuracy"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(SmarthomeConfig, options)
        self.classes = CLASSES if self.config.activities == "all" else CLASSES_CROSS_VIEW

    def entries(self) -> list[Entry]:
        """Return every clip whose activity is one of `classes`, by name."""
        found = find_files(self.root, self._kind)
        skeletons = self._skeletons(found)
        if not skeletons:
            raise DeviceError(f"'{self.root}' holds no skeletons named Activity_pPP_rRR_vVV_cCC.json; check the path")
        metas = {name: parse_name(name) for name in skeletons}
        # The published lists name a few clips of an activity that is none of the 31.
        if foreign := [name for name, meta in metas.items() if meta["activity"] not in CLASSES]:
            logger.warning("%d clips are of no Smarthome activity, first %s: skipping them", len(foreign), foreign[0])
        entries = []
        for name, meta in metas.items():
            if meta["activity"] in self.classes:
                color = {"color": found[name]["color"]} if "color" in found[name] else {}
                label = self.classes.index(meta["activity"])
                entries.append(Entry(name, label, meta, {"skeleton": skeletons[name], **color}))
        return entries

    def read(self, entry: Entry) -> Clip:
        """Read the tracked bodies; color, pixels and motion if there is a video."""
        sequence = read_smarthome(entry.files["skeleton"], self.config)
        video = self._video(entry, sequence) if "color" in entry.files else None
        streams = joint_streams(video, sequence.pixels, IMAGE_SIZE)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, streams)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the images of the video; there is no depth."""
        if "color" not in entry.files:
            raise self.missing_images(entry, f"{entry.name}.mp4")
        sequence = read_smarthome(entry.files["skeleton"], self.config)
        return self._video(entry, sequence).frames(KINECT_V1)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part; "" for camera 5 and for activities that are not in the split."""
        self.check(split)
        if split == "cross_subject":
            return "train" if entry.meta["subject"] in SUBJECTS else "test"
        if entry.meta["activity"] not in CLASSES_CROSS_VIEW:
            return ""
        if entry.meta["camera"] in CAMERAS[split]:
            return "train"
        return "test" if entry.meta["camera"] == TEST_CAMERA else ""

    def _video(self, entry: Entry, sequence: SkeletonSequence) -> ColorVideo:
        return ColorVideo(entry.files["color"], sequence.stamps_ns, self.config)

    def _kind(self, path: Path) -> Kind:
        """Return clip and kind of a file; None for depth videos, which have the names of color videos."""
        meta, suffix = parse_name(path.name), path.suffix.lower()
        depth = any("depth" in part.lower() for part in path.relative_to(self.root).parts)
        if not meta or not (suffix == ".json" or (suffix in VIDEOS and not depth)):
            return None
        name = "{activity}_p{subject:02}_r{recording:02}_v{video:02}_c{camera:02}".format(**meta)
        release = "refined" if path.stem.lower().endswith(REFINED) else "first"
        return name, release if suffix == ".json" else "color"

    def _skeletons(self, found: dict[str, dict[str, Path]]) -> dict[str, Path]:
        """Return the skeletons of each clip, all of one release: the preferred one if both exist."""
        releases = {kind for files in found.values() for kind in files} & {"refined", "first"}
        release = self.config.release if self.config.release in releases else next(iter(releases), "")
        chosen = {name: files[release] for name, files in found.items() if release in files}
        without = [name for name, files in found.items() if not releases & files.keys()]
        if without and chosen:
            logger.warning("%d videos have no skeletons, first '%s': skipping them", len(without), without[0])
        other_release = sum(1 for files in found.values() if releases & files.keys() and release not in files)
        if other_release:
            logger.warning("%d clips have no skeletons of release '%s': skipping them", other_release, release)
        return chosen
