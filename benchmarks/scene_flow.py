"""`actrec bench scene-flow`: accuracy against exact motion and the authors' program, warping residuals, and speed.

The part `device` counts launches and bytes of a pair on a GPU, and the host's time, without one.
"""

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import scene_flow
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import Parser, amount, count
from actrec.scene_flow import SceneFlow, camera_motion
from actrec.scene_flow.primal_dual import gpu
from actrec.scene_flow.primal_dual.cpu import CpuSolver, Level, PdFlowConfig, write_velocity
from actrec.scene_flow.stream import resize
from actrec.simulation.actions import Performance
from actrec.simulation.actor import ActorPose
from actrec.simulation.appearance import Appearance, cast_member
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.renderer import furnished_room
from actrec.simulation.scene import CameraPose, ProceduralActor, Scene, SceneFrame
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.camera_model import KINECT_V1, project
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.geometry import image_points, rotation, unproject
from benchmarks.gpu import without_gpu

DISTANCES = (1.8, 2.4, 3.0)


def _turn(axis: int, degrees: float) -> np.ndarray:
    return rotation(axis, float(np.radians(degrees))).astype(np.float64)


@dataclass(frozen=True)
class Motion:
    """Rigid motion from one frame to the next, in the first camera's axes, m.

    Attributes:
        name: Shown in the table.
        shift, turn: Translation and rotation of the statue about its hips.
        camera_shift, camera_turn: Translation and rotation of the camera.
    """

    name: str
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    camera_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_turn: np.ndarray = field(default_factory=lambda: np.eye(3))


STATUES = (
    Motion("right 30 mm", (0.03, 0, 0)),
    Motion("right 60 mm", (0.06, 0, 0)),
    Motion("down 30 mm", (0, 0.03, 0)),
    Motion("away 30 mm", (0, 0, 0.03)),
    Motion("nearer 60 mm", (0, 0, -0.06)),
    Motion("turn 4°", turn=_turn(1, 4)),
    Motion("tilt 4°", turn=_turn(2, 4)),
)

CAMERAS = (
    Motion("camera right 20 mm", camera_shift=(0.02, 0, 0)),
    Motion("camera ahead 30 mm", camera_shift=(0, 0, 0.03)),
    Motion("camera turns 1°", camera_turn=_turn(1, 1)),
    Motion("camera ahead 30 mm, turns 1°, person right 40 mm", (0.04, 0, 0), np.eye(3), (0, 0, 0.03), _turn(1, 1)),
    Motion("camera turns 5°, person right 40 mm", (0.04, 0, 0), camera_turn=_turn(1, 5)),
    Motion("camera nods 4°, rolls 4°, right 20 mm", (0, 0, 0), np.eye(3), (0.02, 0, 0), _turn(0, 4) @ _turn(2, 4)),
    Motion("camera turns 10°, person nearer 40 mm", (0, 0, -0.04), camera_turn=_turn(1, 10)),
)


@dataclass(frozen=True)
class PlacedCamera(CameraPose):
    """Arbitrary camera pose: axes [3, 3] as columns and center [3], in the room."""

    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    center: np.ndarray = field(default_factory=lambda: np.array([0.0, -1.0, 0.0]))

    @property
    def rotation(self) -> np.ndarray:
        """Return the camera axes."""
        return self.axes

    @property
    def position(self) -> np.ndarray:
        """Return the camera center."""
        return self.center


def flow_between(first: Scene, frame: SceneFrame, second: Scene, later: SceneFrame, dt: float) -> np.ndarray:
    """Return the exact velocity to a frame of another camera pose, `dt` seconds later.

    The second scene has the same actors and room. The flow is [H, W, 3] float32 m/s, from the first camera's frame to
    the other's.

    Raises:
        InputError: dt is not positive, or the actors differ.
    """
    placed_later = second.place(later.poses)
    if placed_later is None:
        raise InputError("no actor in the second frame: use a time at which the actors are present")
    move = np.eye(4)
    for camera, step in ((first.camera, np.asarray), (second.camera, np.linalg.inv)):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = camera.rotation, camera.position
        move = step(pose) @ move
    return first.renderer.scene_flow(frame.rendering, placed_later, dt, move[:3])


class _Statue:
    """Actor with a constant pose in the camera's frame."""

    duration = float("inf")

    def __init__(self, appearance: Appearance, rest: np.ndarray, pose: ActorPose):
        self.appearance, self.rest, self._pose = appearance, rest, pose

    def pose(self, time: float) -> ActorPose:
        return self._pose

    def label(self, time: float) -> str:
        return "idle"


@dataclass(frozen=True)
class Pair:
    """Two frames at the flow's size, with the exact flow and the statue's mask."""

    first: tuple[np.ndarray, np.ndarray, Intrinsics]
    second: tuple[np.ndarray, np.ndarray, Intrinsics]
    exact: np.ndarray
    person: np.ndarray


def measure_motions(methods: dict[str, SceneFlow], cameras: bool, width: int = 320) -> list[dict[str, Any]]:
    """Return a row for each motion, noise and method.

    Args:
        methods: Methods by name.
        cameras: Use moving cameras instead of moved statues.
        width: Of the flow image.
    """
    rows = []
    for motion in CAMERAS if cameras else STATUES:
        for noise in (False, True):
            pairs = list(pairs_of(motion, noise, KINECT_V1, 640 // width))
            for name, method in methods.items():
                row = {"motion": motion.name, "noise": "on" if noise else "off", "method": name}
                rows.append(
                    {**row, **(_without_camera(motion, method, pairs) if cameras else _motion_errors(method, pairs))}
                )
    return rows


def sampled(image: np.ndarray, step: int) -> np.ndarray:
    """Return the pixels whose depth `resize` keeps at a `step`-th of the size."""
    return image[step // 2 :: step, step // 2 :: step]


def pairs_of(motion: Motion, noise: bool, intrinsics: Intrinsics, step: int) -> Iterator[Pair]:
    """Yield a pair of the motion at each distance, at a `step`-th of the image size."""
    for number, distance in enumerate(DISTANCES):
        before, after = _scenes(motion, distance, number, intrinsics)
        shots = before.at(0.0), after.at(0.0)
        exact = sampled(flow_between(before, shots[0], after, shots[1], DT), step)
        size = intrinsics.width // step, intrinsics.height // step
        sensor = SensorNoise(SENSORS["structured_light"], intrinsics, number) if noise else None
        images = []
        for k, shot in enumerate(shots):
            color, depth = shot.rendering.color, shot.rendering.depth
            if sensor is not None:
                color, depth = sensor.color(color, k), sensor.depth(depth, shot.rendering.facing, k)
            images.append(resize(color, depth, intrinsics, *size))
        yield Pair(images[0], images[1], exact, sampled(shots[0].rendering.people, step) >= 0)


def _scenes(motion: Motion, distance: float, seed: int, intrinsics: Intrinsics) -> tuple[Scene, Scene]:
    """Return the scene before and after the motion."""
    camera, who = PlacedCamera(), cast_member(seed + 1)
    performance = Performance(("wave",), seed, physique=who.appearance)
    actor = ProceduralActor(performance, who.appearance, camera, (0.0, distance), 0.3)
    pose = actor.pose(1.5)
    hips = pose.joints[0]
    moved = pose.transformed(motion.turn, hips - motion.turn @ hips + np.array(motion.shift))
    back = motion.camera_turn.T
    seen = moved.transformed(back, -back @ np.array(motion.camera_shift))
    where = camera.position + camera.rotation @ np.array(motion.camera_shift)
    elsewhere = PlacedCamera(axes=camera.rotation @ motion.camera_turn, center=where)
    scenery = furnished_room(back=distance + 1.5, seed=seed)
    first, second = (
        Scene([_Statue(who.appearance, actor.rest, p)], intrinsics, c, scenery)
        for p, c in ((pose, camera), (seen, elsewhere))
    )
    return first, second


def _motion_errors(method: SceneFlow, pairs: list[Pair]) -> dict[str, float]:
    """Return errors in mm per frame, of the statue and of the static background."""
    errors, motions, still, known = [], [], [], []
    for pair in pairs:
        flow = _estimated(method, pair)
        error = np.linalg.norm(flow - pair.exact, axis=-1) * DT * 1000
        errors.append(error[pair.person])
        motions.append(np.linalg.norm(pair.exact, axis=-1)[pair.person] * DT * 1000)
        still.append(error[~pair.person])
        known.append(np.isfinite(error[pair.person]))
    error, seen, rest = np.concatenate(errors), np.concatenate(known), np.concatenate(still)
    return {
        "person_epe_mm": round(float(error[seen].mean()), 1),
        "person_median_mm": round(float(np.median(error[seen])), 1),
        "of_motion": round(float(error[seen].mean() / np.concatenate(motions)[seen].mean()), 3),
        "known": round(float(seen.mean()), 3),
        "still_median_mm": round(float(np.nanmedian(rest)), 2),
    }


def _without_camera(motion: Motion, method: SceneFlow, pairs: list[Pair]) -> dict[str, Any]:
    """Return the flow of the static background before and after subtracting the estimated camera motion.

    As in `FlowPairs`, fast rotations are compensated.
    """
    true = camera_motion.CameraMotion(motion.camera_turn.T, -motion.camera_turn.T @ np.array(motion.camera_shift))
    before, after, person, angle, place, found = [], [], [], [], [], 0
    for pair in pairs:
        first, second = (RgbdFrame(k, *images, "camera") for k, images in enumerate((pair.first, pair.second)))
        flow = camera_motion.flow_with_rotation(
            method, first, second, DT, camera_motion.estimate_rotation(first, second)
        )
        _, depth, intrinsics = pair.first
        before.append(np.linalg.norm(flow, axis=-1)[~pair.person])
        estimated = camera_motion.estimate_camera_motion(flow, depth, intrinsics, DT)
        if estimated is None:
            continue
        found += 1
        own = camera_motion.subtract_camera_motion(flow, depth, intrinsics, DT, estimated)
        wanted = camera_motion.subtract_camera_motion(pair.exact, depth, intrinsics, DT, true)
        after.append(np.linalg.norm(own, axis=-1)[~pair.person])
        person.append(np.linalg.norm(own - wanted, axis=-1)[pair.person])
        apart = estimated.rotation @ true.rotation.T
        angle.append(np.degrees(np.arccos(np.clip((np.trace(apart) - 1) / 2, -1, 1))))
        place.append(np.linalg.norm(estimated.translation - true.translation) * 1000)
    figures: dict[str, Any] = {"still_median_mm": _median_mm(before), "found": f"{found} of {len(pairs)}"}
    if found:
        figures |= {
            "still_after_mm": _median_mm(after), "person_error_after_mm": _median_mm(person),
            "camera_off_deg": round(float(np.mean(angle)), 3), "camera_off_mm": round(float(np.mean(place)), 1),
        }  # fmt: skip
    return figures


def _median_mm(speeds: list[np.ndarray]) -> float:
    return round(float(np.nanmedian(np.concatenate(speeds))) * DT * 1000, 2)


def _estimated(method: SceneFlow, pair: Pair) -> np.ndarray:
    (color0, depth0, intrinsics), (color1, depth1, _) = pair.first, pair.second
    return method.estimate(color0, depth0, color1, depth1, intrinsics, DT)


SIZES = ((160, 120), (320, 240), (640, 480))

PARTS = ("truth", "rigid", "camera", "authors", "warping", "speed", "device")

DT = 1 / 30

Images = tuple[np.ndarray, np.ndarray, Intrinsics]


def measure(arguments: list[str]) -> dict[str, Any]:
    """Return the results of the selected parts."""
    parser = Parser(
        prog="actrec bench scene-flow", description=__doc__,
        epilog="Example: actrec bench scene-flow --data $ACTREC_DATA --parts truth,speed",
    )  # fmt: skip
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated parts (default: %(default)s)")
    data = Path(os.environ.get("ACTREC_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of recordings (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for all (default: %(default)s)")
    parser.add_argument("--pairs", type=count, default=12, help="pairs per simulated case (default: %(default)s)")
    parser.add_argument("--seconds", type=amount, default=3.0, help="time per speed measurement (default: %(default)s)")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(args.threads or -1)
    parts = {
        "truth": lambda: truth(args.pairs, args.threads),
        "rigid": lambda: measure_motions(_methods(args.threads), cameras=False),
        "camera": lambda: measure_motions(_estimators(args.threads), cameras=True),
        "authors": lambda: authors(args.data, args.threads),
        "warping": lambda: warping(args.data, args.threads),
        "speed": lambda: speed(args.threads, args.seconds),
        "device": without_gpu,
    }
    wanted = args.parts.split(",")
    if unknown := [part for part in wanted if part not in parts]:
        raise ConfigError(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    return {part: parts[part]() for part in wanted}


class _Zero(SceneFlow):
    """Baseline without motion."""

    def _estimate(self, first, second, intrinsics, dt):  # type: ignore[no-untyped-def]
        return np.where(np.isfinite(first[1])[..., None], np.float32(0), np.float32(np.nan)) * np.ones(3, np.float32)


def _methods(threads: int) -> dict[str, SceneFlow]:
    return {
        **_estimators(threads),
        "zero": _Zero(),
    }


def _estimators(threads: int) -> dict[str, SceneFlow]:
    """Return the estimators, including the GPU's if there is one."""
    on_gpu = {"pd_flow_cuda": scene_flow.create("pd_flow", device="cuda")} if gpu.available() else {}
    return {
        **on_gpu,
        "pd_flow": scene_flow.create("pd_flow", device="cpu", threads=threads),
        "dis": scene_flow.create("dis"),
    }


# -- truth -------------------------------------------------------------------------------------------------------------


def truth(count: int, threads: int) -> list[dict[str, Any]]:
    """Return errors per frame (33 ms) on simulated actors, at moving and at static pixels."""
    rows = []
    for width, height in SIZES[:2]:
        for actors, noise in ((1, False), (1, True), (2, False), (2, True)):
            pairs = list(_simulated(count, actors, noise, 640 // width))
            for name, method in _methods(threads).items():
                rows.append(_errors_row(f"{width}x{height}", actors, noise, name, method, pairs))
    return rows


def _simulated(
    count: int, actors: int, noise: bool, step: int
) -> Iterator[tuple[Images, Images, np.ndarray, np.ndarray]]:
    """Yield pairs of frames half a second apart, with the exact flow and the actors' mask."""
    with SimulatedCamera(realtime=False, start_stamp_ns=0, noise=noise, actors=actors) as camera:
        assert camera.scene is not None
        for _ in range(count):
            for _ in range(13):
                camera.read()
            first = _small(camera.read(), step)
            assert camera.snapshot is not None
            exact = sampled(camera.scene.scene_flow(camera.snapshot, DT), step)
            people = sampled(camera.snapshot.rendering.people, step) >= 0
            yield first, _small(camera.read(), step), exact, people


def _small(frame: Any, step: int) -> Images:
    return resize(frame.color, frame.depth, frame.intrinsics, 640 // step, 480 // step)


def _errors_row(
    size: str, actors: int, noise: bool, name: str, method: SceneFlow, pairs: Iterable[tuple]
) -> dict[str, Any]:
    errors, speeds, still, known = [], [], [], []
    for (color0, depth0, intrinsics), (color1, depth1, _), exact, people in pairs:
        flow = method.estimate(color0, depth0, color1, depth1, intrinsics, DT)
        error, fast = np.linalg.norm(flow - exact, axis=-1) * DT * 1000, np.linalg.norm(exact, axis=-1)
        moving = people & (fast > 0.3)
        errors.append(error[moving])
        speeds.append(fast[moving] * DT * 1000)
        still.append(error[~people])
        known.append(np.isfinite(error[moving]))
    error, motion, rest = np.concatenate(errors), np.concatenate(speeds), np.concatenate(still)
    seen = np.isfinite(error)
    return {
        "size": size, "actors": actors, "noise": "on" if noise else "off", "method": name,
        "moving_epe_mm": round(float(error[seen].mean()), 1),
        "moving_median_mm": round(float(np.median(error[seen])), 1),
        "of_motion": round(float(error[seen].mean() / motion[seen].mean()), 3),
        "known": round(float(np.concatenate(known).mean()), 3),
        "still_median_mm": round(float(np.nanmedian(rest)), 2),
        "still_p95_mm": round(float(np.nanpercentile(rest, 95)), 1),
    }  # fmt: skip


# -- the authors' program ----------------------------------------------------------------------------------------------


def subfolders(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder of recordings; raise DeviceError if there is none."""
    if not folder.is_dir():
        raise DeviceError(f"there is no folder '{folder}': give the recordings' folder with --data or ACTREC_DATA")
    return sorted(folder.iterdir())


def authors(data: Path, threads: int) -> list[dict[str, Any]]:
    """Compare recorded pairs with the authors' program at pixels that it moves by more than 1 cm."""
    rows = []
    for folder in subfolders(data / "pdflow"):
        flow, first, theirs = authors_pair(folder, threads)
        moving = (first.depth > 0) & (np.linalg.norm(theirs, axis=-1) > 0.01)
        for axis, name in enumerate(("x", "y", "z")):
            a, b = flow[moving][:, axis], theirs[moving][:, axis]
            rows.append({
                "pair": folder.name, "component": name, "pixels": int(moving.sum()),
                "correlation": round(float(np.corrcoef(a, b)[0, 1]), 4),
                "median_difference_mm": round(float(np.median(np.abs(a - b))) * 1000, 3),
                "median_motion_mm": round(float(np.median(np.abs(b))) * 1000, 2),
            })  # fmt: skip
    return rows


def authors_pair(folder: Path, threads: int) -> tuple[np.ndarray, Level, np.ndarray]:
    """Return our motion [240, 320, 3] m of a pair, its first image, and the authors' motion in our axes."""
    solver, focal, pyramids = CpuSolver(PdFlowConfig(), threads or 2), 320 / np.tan(np.radians(62.5) / 2), []
    for k in (1, 2):
        gray = cv2.cvtColor(cv2.imread(str(folder / f"i{k}.png")), cv2.COLOR_BGR2GRAY).astype(np.float32)
        depth = _depth(folder / f"z{k}.png").astype(np.float32) / 5000
        # The program's finest level is half the image size.
        pyramids.append(solver.pyramid(gray, depth, (focal, focal, 319.5, 239.5))[1:])
    first = pyramids[0][0]
    flow = solver.solve(pyramids[0], pyramids[1])
    written = np.loadtxt(folder / "pdflow_results01.txt")[:, 2:].reshape(240, 320, 3)
    ours, anywhere = np.empty((240, 320, 3), np.float32), np.ones((240, 320), np.uint8)
    camera = tuple(map(np.float32, first.camera))
    write_velocity(first.depth, flow, anywhere, camera, np.float32(1), np.float32(np.inf), ours)
    return ours, first, written[..., [1, 2, 0]]  # forwards, right, down


# -- warping -----------------------------------------------------------------------------------------------------------


def warping(data: Path, threads: int) -> list[dict[str, Any]]:
    """Return residuals of gray and depth on recorded pairs after warping the second image back along the flow."""
    rows = []
    for title, pairs in (("pairs", list(_pairs(data))), ("person_turning", list(_turning(data)))):
        for width, height in SIZES[:2]:
            for name, method in _methods(threads).items():
                left = [_residuals(method, *(resize(*image, width, height) for image in pair)) for pair in pairs]
                gray, depth, share = np.mean(left, axis=0)
                rows.append({
                    "recording": title, "size": f"{width}x{height}", "method": name, "pairs": len(pairs),
                    "gray_left": round(float(gray), 2), "depth_left_mm": round(float(depth), 1),
                    "share_of_pixels": round(float(share), 3),
                })  # fmt: skip
    return rows


def _pairs(data: Path) -> Iterator[tuple[Images, Images]]:
    for folder in subfolders(data / "rgbd" / "pairs"):
        yield tuple(_image(folder / f"color{k}.png", folder / f"depth{k}.png", 5000) for k in (0, 1))  # type: ignore[misc]


def _turning(data: Path, step: int = 5) -> Iterator[tuple[Images, Images]]:
    folder = data / "rgbd" / "person_turning"
    for k in range(0, 100 - 1, step):
        yield tuple(_image(folder / f"{i:010d}.jpg", folder / f"{i:010d}_depth.png", 1000) for i in (k, k + 1))  # type: ignore[misc]


def _depth(path: Path) -> np.ndarray:
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert depth is not None, path
    return depth


def _image(color: Path, depth: Path, scale: float) -> Images:
    depth_m = _depth(depth).astype(np.float32) / np.float32(scale)
    depth_m[depth_m == 0] = np.nan
    rgb = cv2.cvtColor(cv2.imread(str(color)), cv2.COLOR_BGR2RGB)
    return rgb, depth_m, KINECT_V1


def _residuals(method: SceneFlow, first: Images, second: Images) -> tuple[float, float, float]:
    """Return the mean gray residual (0 to 255), the median depth residual (mm), and the share of evaluated pixels.

    Evaluated are pixels that differ by 3 gray values or 3 cm before warping. Unknown flow counts as zero.
    """
    (color0, depth0, camera), (color1, depth1, _) = first, second
    flow = method.estimate(color0, depth0, color1, depth1, camera, DT)
    gray0, gray1 = (cv2.cvtColor(c, cv2.COLOR_RGB2GRAY).astype(np.float32) for c in (color0, color1))
    flow = np.where(np.isfinite(flow), flow, 0) * DT
    points = image_points(depth0, camera) + flow
    at = project(points, camera)
    drawn = cv2.remap(gray1, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    deep = cv2.remap(depth1, at[..., 0], at[..., 1], cv2.INTER_NEAREST, borderValue=np.nan)
    known = np.isfinite(depth0) & np.isfinite(depth1)
    differed = known & ((np.abs(gray1 - gray0) > 3) | (np.abs(depth1 - depth0) > 0.03))
    # Flow into missing depth counts as unwarped.
    away = np.where(np.isfinite(deep), np.abs(deep - points[..., 2]), np.abs(depth1 - depth0))[differed]
    gray = np.abs(drawn - gray0)[differed]
    return float(gray.mean()), float(np.median(away)) * 1000, float(differed.mean())


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(threads: int, seconds: float) -> list[dict[str, Any]]:
    """Return the frame rate and CPU ms of a pair on a stream of simulated frames, resized beforehand."""
    with SimulatedCamera(realtime=False, start_stamp_ns=0) as camera:
        frames = [camera.read() for _ in range(12)]
    rows = []
    for width, height in SIZES:
        images = [resize(f.color, f.depth, f.intrinsics, width, height) for f in frames]  # type: ignore[arg-type]
        row: dict[str, Any] = {"size": f"{width}x{height}"}
        for name, method in {**_methods(threads), "farneback": _Farneback()}.items():
            if name != "zero":
                rate, busy = _rate(method, images, seconds)
                row |= {f"{name}_fps": round(rate, 1), f"{name}_cpu_ms": round(1000 * busy, 2)}
        rows.append(row)
    return rows


class _Farneback(SceneFlow):
    """OpenCV's Farnebäck flow, lifted by the depth at both ends."""

    def _estimate(self, first, second, intrinsics, dt):  # type: ignore[no-untyped-def]
        (color0, depth0), (color1, depth1) = first, second
        gray0, gray1 = (cv2.cvtColor(c, cv2.COLOR_RGB2GRAY) for c in (color0, color1))
        flow = cv2.calcOpticalFlowFarneback(gray0, gray1, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        pixels = np.stack(np.meshgrid(np.arange(gray0.shape[1]), np.arange(gray0.shape[0])), axis=-1).astype(np.float32)
        at = pixels + flow
        deep = cv2.remap(depth1, at[..., 0], at[..., 1], cv2.INTER_NEAREST, borderValue=np.nan)
        return (unproject(at, deep, intrinsics) - unproject(pixels, depth0, intrinsics)) / np.float32(dt)


def _rate(method: SceneFlow, images: list[Images], seconds: float) -> tuple[float, float]:
    """Return pairs per second in a stream and the median CPU seconds of a pair, after a warm-up that compiles."""
    for (c0, d0, camera), (c1, d1, _) in itertools.pairwise(images[:4]):
        method.estimate(c0, d0, c1, d1, camera, DT)
    busy, began = list[float](), time.perf_counter()
    while time.perf_counter() - began < seconds:
        (c0, d0, camera), (c1, d1, _) = images[len(busy) % 11], images[len(busy) % 11 + 1]
        start = time.process_time()
        method.estimate(c0, d0, c1, d1, camera, DT)
        busy.append(time.process_time() - start)
    return len(busy) / (time.perf_counter() - began), float(np.median(busy))
