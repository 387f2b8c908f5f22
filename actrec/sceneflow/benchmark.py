"""`actrec bench scene-flow`: against exact motion, against its authors' program, by warping, and by the clock."""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import sceneflow
from actrec.capture.simulated import SimulatedCamera
from actrec.cli import Parser
from actrec.cli.arguments import amount, count
from actrec.errors import ConfigError
from actrec.frames import Intrinsics
from actrec.geometry import image_points, project, unproject
from actrec.sceneflow import benchmark_motions
from actrec.sceneflow.base import SceneFlow, resize
from actrec.sceneflow.primal_dual import cupy_device, reference
from actrec.sceneflow.primal_dual.cpu import CpuSolver
from actrec.sceneflow.primal_dual.level import Level
from actrec.sceneflow.primal_dual.settings import PdFlowConfig

SIZES = ((160, 120), (320, 240), (640, 480))
PARTS = ("truth", "rigid", "camera", "authors", "warping", "speed")
DT = 1 / 30

Images = tuple[np.ndarray, np.ndarray, Intrinsics]


def measure(arguments: list[str]) -> dict[str, Any]:
    """The figures of each part that is asked for."""
    parser = Parser(
        prog="actrec bench scene-flow", description=__doc__,
        epilog="Example: actrec bench scene-flow --data ../shared/data --parts truth,speed",
    )  # fmt: skip
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="recordings (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for all (default: %(default)s)")
    parser.add_argument("--pairs", type=count, default=12, help="pairs of a simulated case (default: %(default)s)")
    parser.add_argument("--seconds", type=amount, default=3.0, help="that a speed is timed for (default: %(default)s)")
    args = parser.parse_args(arguments)
    cv2.setNumThreads(args.threads or -1)
    parts = {
        "truth": lambda: truth(args.pairs, args.threads),
        "rigid": lambda: benchmark_motions.measure(_methods(args.threads), cameras=False),
        "camera": lambda: benchmark_motions.measure(_estimators(args.threads), cameras=True),
        "authors": lambda: authors(args.data, args.threads),
        "warping": lambda: warping(args.data, args.threads),
        "speed": lambda: speed(args.threads, args.seconds),
    }
    wanted = args.parts.split(",")
    if unknown := [part for part in wanted if part not in parts]:
        raise ConfigError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return {part: parts[part]() for part in wanted}


class _Zero(SceneFlow):
    """That nothing moves."""

    def _estimate(self, colour0, depth0, colour1, depth1, intrinsics, dt):  # type: ignore[no-untyped-def]
        return np.where(np.isfinite(depth0)[..., None], np.float32(0), np.float32(np.nan)) * np.ones(3, np.float32)


def _methods(threads: int) -> dict[str, SceneFlow]:
    return {
        **_estimators(threads),
        "zero": _Zero(),
    }


def _estimators(threads: int) -> dict[str, SceneFlow]:
    """Those that estimate; on the GPU too where there is one."""
    on_gpu = {"pd_flow_cuda": sceneflow.create("pd_flow", device="cuda")} if cupy_device.available() else {}
    return {
        **on_gpu,
        "pd_flow": sceneflow.create("pd_flow", device="cpu", threads=threads),
        "dis": sceneflow.create("dis"),
    }


# -- truth -------------------------------------------------------------------------------------------------------------


def truth(count: int, threads: int) -> list[dict[str, Any]]:
    """The simulated camera's actors, whose motion is known: errors over 33 ms, where they move and elsewhere."""
    rows = []
    for width, height in SIZES[:2]:
        for actors, noise in ((1, False), (1, True), (2, False), (2, True)):
            pairs = list(_simulated(count, actors, noise, 640 // width))
            for name, method in _methods(threads).items():
                rows.append(_judged(f"{width}x{height}", actors, noise, name, method, pairs))
    return rows


def _simulated(
    count: int, actors: int, noise: bool, step: int
) -> Iterator[tuple[Images, Images, np.ndarray, np.ndarray]]:
    """Pairs of frames half a second apart, with the exact flow and where somebody is."""
    with SimulatedCamera(realtime=False, start_stamp_ns=0, noise=noise, actors=actors) as camera:
        assert camera.scene is not None
        for _ in range(count):
            for _ in range(13):
                camera.read()
            first = _small(camera.read(), step)
            assert camera.snapshot is not None
            exact = benchmark_motions.sampled(camera.scene.scene_flow(camera.snapshot, DT), step)
            people = benchmark_motions.sampled(camera.snapshot.rendering.people, step) >= 0
            yield first, _small(camera.read(), step), exact, people


def _small(frame: Any, step: int) -> Images:
    return resize(frame.colour, frame.depth, frame.intrinsics, 640 // step, 480 // step)


def _judged(
    size: str, actors: int, noise: bool, name: str, method: SceneFlow, pairs: Iterable[tuple]
) -> dict[str, Any]:
    errors, speeds, still, known = [], [], [], []
    for (colour0, depth0, intrinsics), (colour1, depth1, _), exact, people in pairs:
        flow = method.estimate(colour0, depth0, colour1, depth1, intrinsics, DT)
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


def authors(data: Path, threads: int) -> list[dict[str, Any]]:
    """Recorded pairs with what the authors' program made of them, where it reports more than a centimetre."""
    rows = []
    for folder in sorted((data / "pdflow").iterdir()):
        flow, first, theirs = authors_pair(folder, threads)
        told = (first.depth > 0) & (np.linalg.norm(theirs, axis=-1) > 0.01)
        for axis, name in enumerate(("x", "y", "z")):
            a, b = flow[told][:, axis], theirs[told][:, axis]
            rows.append({
                "pair": folder.name, "component": name, "pixels": int(told.sum()),
                "correlation": round(float(np.corrcoef(a, b)[0, 1]), 4),
                "median_difference_mm": round(float(np.median(np.abs(a - b))) * 1000, 3),
                "median_motion_mm": round(float(np.median(np.abs(b))) * 1000, 2),
            })  # fmt: skip
    return rows


def authors_pair(folder: Path, threads: int) -> tuple[np.ndarray, Level, np.ndarray]:
    """Our motion in metres [240, 320, 3] of a pair, its first image, and the authors' motion in our axes."""
    solver, focal, pyramids = CpuSolver(PdFlowConfig(), threads or 2), 320 / np.tan(np.radians(62.5) / 2), []
    for k in (1, 2):
        grey = cv2.cvtColor(cv2.imread(str(folder / f"i{k}.png")), cv2.COLOR_BGR2GRAY).astype(np.float32)
        depth = cv2.imread(str(folder / f"z{k}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 5000
        # The program's finest level is half of the image's size.
        pyramids.append(solver.pyramid(grey, depth, (focal, focal, 319.5, 239.5))[1:])
    first = pyramids[0][0]
    flow = solver.solve(pyramids[0], pyramids[1])
    written = np.loadtxt(folder / "pdflow_results01.txt")[:, 2:].reshape(240, 320, 3)
    return reference.metric(flow, first), first, written[..., [1, 2, 0]]  # forwards, right, down


# -- warping -----------------------------------------------------------------------------------------------------------


def warping(data: Path, threads: int) -> list[dict[str, Any]]:
    """Recorded pairs: what is left of grey and depth when the second image is drawn back along the flow."""
    rows = []
    for title, pairs in (("pairs", list(_pairs(data))), ("person_turning", list(_turning(data)))):
        for width, height in SIZES[:2]:
            for name, method in _methods(threads).items():
                left = [_left(method, *(resize(*image, width, height) for image in pair)) for pair in pairs]
                grey, depth, share = np.mean(left, axis=0)
                rows.append({
                    "recording": title, "size": f"{width}x{height}", "method": name, "pairs": len(pairs),
                    "grey_left": round(float(grey), 2), "depth_left_mm": round(float(depth), 1),
                    "share_of_pixels": round(float(share), 3),
                })  # fmt: skip
    return rows


def _pairs(data: Path) -> Iterator[tuple[Images, Images]]:
    for folder in sorted((data / "rgbd" / "pairs").iterdir()):
        yield tuple(_image(folder / f"color{k}.png", folder / f"depth{k}.png", 5000) for k in (0, 1))  # type: ignore[misc]


def _turning(data: Path, step: int = 5) -> Iterator[tuple[Images, Images]]:
    folder = data / "rgbd" / "person_turning"
    for k in range(0, 100 - 1, step):
        yield tuple(_image(folder / f"{i:010d}.jpg", folder / f"{i:010d}_depth.png", 1000) for i in (k, k + 1))  # type: ignore[misc]


def _image(colour: Path, depth: Path, scale: float) -> Images:
    metres = cv2.imread(str(depth), cv2.IMREAD_UNCHANGED).astype(np.float32) / np.float32(scale)
    metres[metres == 0] = np.nan
    rgb = cv2.cvtColor(cv2.imread(str(colour)), cv2.COLOR_BGR2RGB)
    return rgb, metres, Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)


def _left(method: SceneFlow, first: Images, second: Images) -> tuple[float, float, float]:
    """What is left where something differed: mean of grey (0 to 255), median of depth in mm; and the share of pixels.

    What differed before, by 3 grey values or 3 cm, is what had to be explained; pixels that a method leaves out count
    as they are without flow.
    """
    (colour0, depth0, camera), (colour1, depth1, _) = first, second
    flow = method.estimate(colour0, depth0, colour1, depth1, camera, DT)
    grey0, grey1 = (cv2.cvtColor(c, cv2.COLOR_RGB2GRAY).astype(np.float32) for c in (colour0, colour1))
    flow = np.where(np.isfinite(flow), flow, 0) * DT
    points = image_points(depth0, camera) + flow
    at = project(points, camera)
    drawn = cv2.remap(grey1, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    deep = cv2.remap(depth1, at[..., 0], at[..., 1], cv2.INTER_NEAREST, borderValue=np.nan)
    known = np.isfinite(depth0) & np.isfinite(depth1)
    differed = known & ((np.abs(grey1 - grey0) > 3) | (np.abs(depth1 - depth0) > 0.03))
    # Flow that leads to where nothing is seen has explained nothing.
    away = np.where(np.isfinite(deep), np.abs(deep - points[..., 2]), np.abs(depth1 - depth0))[differed]
    grey = np.abs(drawn - grey0)[differed]
    return float(grey.mean()), float(np.median(away)) * 1000, float(differed.mean())


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(threads: int, seconds: float) -> list[dict[str, Any]]:
    """Frames a second of a stream of the simulated camera's frames, resized beforehand."""
    with SimulatedCamera(realtime=False, start_stamp_ns=0) as camera:
        frames = [camera.read() for _ in range(12)]
    rows = []
    for width, height in SIZES:
        images = [resize(f.colour, f.depth, f.intrinsics, width, height) for f in frames]  # type: ignore[arg-type]
        row: dict[str, Any] = {"size": f"{width}x{height}"}
        for name, method in {**_methods(threads), "farneback": _Farneback()}.items():
            if name != "zero":
                row[f"{name}_fps"] = round(_rate(method, images, seconds), 1)
        rows.append(row)
    return rows


class _Farneback(SceneFlow):
    """OpenCV's Farnebäck flow and the depth at both ends."""

    def _estimate(self, colour0, depth0, colour1, depth1, intrinsics, dt):  # type: ignore[no-untyped-def]
        grey0, grey1 = (cv2.cvtColor(c, cv2.COLOR_RGB2GRAY) for c in (colour0, colour1))
        flow = cv2.calcOpticalFlowFarneback(grey0, grey1, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        pixels = np.stack(np.meshgrid(np.arange(grey0.shape[1]), np.arange(grey0.shape[0])), axis=-1).astype(np.float32)
        at = pixels + flow
        deep = cv2.remap(depth1, at[..., 0], at[..., 1], cv2.INTER_NEAREST, borderValue=np.nan)
        return (unproject(at, deep, intrinsics) - unproject(pixels, depth0, intrinsics)) / np.float32(dt)


def _rate(method: SceneFlow, images: list[Images], seconds: float) -> float:
    """Pairs a second, in order, after a first round that compiles and warms up."""
    for (c0, d0, camera), (c1, d1, _) in itertools.pairwise(images[:4]):
        method.estimate(c0, d0, c1, d1, camera, DT)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        (c0, d0, camera), (c1, d1, _) = images[done % 11], images[done % 11 + 1]
        method.estimate(c0, d0, c1, d1, camera, DT)
        done += 1
    return done / (time.perf_counter() - began)
