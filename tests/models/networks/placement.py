"""Place of a moving hand in the inputs of a network, against the place of its joint, on rendered RGB-D.

`python -m tests.models.networks.placement` prints the table of all networks, image sizes and mountings.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest

import actrec_models
from actrec import inference
from actrec.features.clips import window_inputs
from actrec.features.crops import pixels_per_meter
from actrec.features.specs import InputSpec, WindowSpec
from actrec.recognition import ActionRecognizer
from actrec.scene_flow import ColorDepth, SceneFlow
from actrec.scene_flow.stream import Flow, FlowPairs, SceneFlowConfig
from actrec.simulation.renderer import Background, Room
from actrec.simulation.scene import CameraPose, Scene, performed_scene
from actrec.types import NANOSECONDS, Body, Intrinsics, LazyClip, RgbdFrame
from actrec.utils import gravity
from actrec.utils.geometry import velocity_at_joints
from tests.models.small import SMALL
from tests.tiny_model import note_runs, write_any

CAMERAS = {
    "640×480": (640, 480, 0, None),
    "848×480": (848, 480, 0, None),
    "1280×720": (1280, 720, 0, None),
    "1920×1080": (1920, 1080, 0, None),
    "848×480 portrait": (848, 480, 90, None),
    "848×480, flow 320×240": (848, 480, 0, (320, 240)),
}
"""Name to width, height, roll (deg), and size of the flow, None for the one that `scene_flow_node` chooses.

The focal length of all is the same share of the height. The last one is a store or a publisher of another aspect.
"""

FLOW = {"size": 112}
FULL: dict[str, dict[str, Any]] = {
    "c3d_flow": FLOW, "c3d_flow_at1": FLOW, "c3d_flow_at2": FLOW, "flow_skeleton": FLOW,
    "p_i3d": {"size": 224}, "vpn_i3d": {"size": 224}, "vpn_resnext101": {"size": 112},
    "deepacts": {"modalities": ("body", "motion")}, "deepacts_cnn": {"modalities": ("body", "motion")},
    "deepacts_multi": {"modalities": ("body", "motion")},
}  # fmt: skip
"""Options that restore the image size of a small network, or add the stream of a moving image."""

UNIT = 112
STILL_M_S, DT = 0.3, 1 / 15
BEGIN, HAND_M = 1.2, 0.12
WRIST, HAND, TIP = 10, 11, 23  # of the right arm


MEASURED = ("flow_rgb", "joint_pixels", "body_crop", "right_hand_crop", "motion", "motion_stamp")


@lru_cache(maxsize=32)
def inputs_of(name: str) -> tuple[list[InputSpec], WindowSpec]:
    """Return a network's inputs in which pixels meet joints, of full size, and its window."""
    network = actrec_models.create(name, num_classes=3, **{**SMALL[name], **FULL.get(name, {})})
    return [spec for spec in network.input_specs if spec.modality in MEASURED], network.window


def plain_wall(room: Room, intrinsics: Intrinsics, rotation: np.ndarray, position: np.ndarray) -> Background:
    """Return a black wall, 4.4 m away."""
    shape = intrinsics.height, intrinsics.width
    depth, facing = np.full(shape, 4.4, np.float32), np.ones(shape, np.float32)
    return Background(np.zeros((*shape, 3), np.uint8), depth, facing, np.zeros(shape, bool))


@dataclass(frozen=True, eq=False)
class Shot:
    """A person who waves: the first frame, its scene flow, and its exact moving pixels."""

    frame: RgbdFrame  # the moving pixels near the joint are white, all others black
    flow: Flow
    body: Body  # wrist, hand and fingertip are at the center of the moving pixels
    speed: np.ndarray  # [H, W] m/s above STILL_M_S, sum over the axes


class ExactFlow(SceneFlow):
    """The flow that a perfect method estimates: the rendered one, at any image size."""

    def __init__(self, roll: float):
        self._roll = roll

    def scene(self, intrinsics: Intrinsics) -> Scene:
        """Return the person who waves, in front of a plain wall: a furnished room takes seconds to render."""
        pose = CameraPose(1.3, 0.0, np.radians(self._roll))
        with mock.patch("actrec.simulation.scene.render_room", plain_wall):
            return performed_scene(intrinsics, ("wave",), side="right", camera=pose)

    def _estimate(self, first: ColorDepth, second: ColorDepth, intrinsics: Intrinsics, dt: float) -> np.ndarray:
        scene = self.scene(intrinsics)
        return scene.scene_flow(scene.at(BEGIN), dt)


@lru_cache(maxsize=2)
def shot(camera: str) -> Shot:
    """Render a frame, and its scene flow by the way of a live frame."""
    width, height, roll, flow_size = CAMERAS[camera]
    focal = 525 / 480 * height
    intrinsics = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    method = ExactFlow(roll)
    scene = method.scene(intrinsics)
    pairs, seen = FlowPairs(method, SceneFlowConfig()), scene.at(BEGIN)
    color, depth, flow = seen.rendering.color, seen.rendering.depth, None
    for stamp in (0, round(DT * NANOSECONDS)):
        flow = pairs.add(RgbdFrame(stamp, color, depth, intrinsics))
    if flow_size is not None:
        small = intrinsics.resized(*flow_size)
        flow = Flow(0, "", method.scene(small).scene_flow(method.scene(small).at(BEGIN), DT), small)
    assert flow is not None
    speed, body = excess(scene.scene_flow(seen, DT)), seen.bodies[0]
    body.pixels[[WRIST, HAND, TIP]] = center(speed)
    rows, columns = np.indices(speed.shape)
    distance = np.hypot(columns - body.pixels[HAND, 0], rows - body.pixels[HAND, 1])
    near = distance < HAND_M * focal / depth[speed > 0].min()
    marked = np.where((speed > 0) & near, 255, 0).astype(np.uint8)
    color = np.repeat(marked[..., None], 3, axis=-1)
    frame = RgbdFrame(0, color, depth, intrinsics, up=gravity.up_from_angles(roll, 0))
    return Shot(frame, flow, body, speed)


def excess(velocity: np.ndarray) -> np.ndarray:
    """Return the speed above the threshold [..., H, W] of velocities [..., H, W, 3], 0 if unknown."""
    return np.nan_to_num(np.maximum(np.abs(velocity).sum(axis=-1) - STILL_M_S, 0)).astype(np.float32)


def center(weight: np.ndarray) -> np.ndarray:
    """Return the mean (u, v) of a weight [H, W]."""
    rows, columns = np.indices(weight.shape)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def aspect(weight: np.ndarray) -> float:
    """Return the width of a weight [H, W], relative to its height."""
    u, v = center(weight)
    rows, columns = np.indices(weight.shape)
    return float(np.sqrt((weight * (columns - u) ** 2).sum() / (weight * (rows - v) ** 2).sum()))


def offline(made: Shot, specs: Sequence[InputSpec], window: WindowSpec) -> dict[str, np.ndarray]:
    """Return the inputs of a clip of a store, every frame of which is this one."""
    count = window.frames
    size = np.array([made.frame.intrinsics.width, made.frame.intrinsics.height], np.float32)
    clip = {"bodies": made.body.positions[None], "pixels": made.body.pixels[None], "motion": motion(made)[None]}
    clip = {key: np.repeat(value[:, None], count, axis=1) for key, value in clip.items()}
    images = {"color": np.asarray(made.frame.color), "flow": made.flow.velocity}
    clip |= {key: np.broadcast_to(image, (count, *image.shape)) for key, image in images.items()}
    clip |= {"size": size, "up": np.asarray(made.frame.up)}
    lazy = LazyClip({key: partial(clip.__getitem__, key) for key in clip})
    return window_inputs(lazy, specs, window, window.starts[-1:])[0]


def live(made: Shot, specs: Sequence[InputSpec], window: WindowSpec) -> dict[str, np.ndarray]:
    """Return the inputs that a recognizer gives to a network, from messages of this frame."""
    with tempfile.TemporaryDirectory() as folder:
        write_any(Path(folder) / "any", specs, window, weights=np.zeros((len(specs), 3)))
        session = inference.load(Path(folder) / "any")
        runs = note_runs(session, pytest.MonkeyPatch())
        recognizer = ActionRecognizer(session, min_seconds=0.0)
        if recognizer.needs_image_size:
            recognizer.set_image_size(made.frame.intrinsics.width, made.frame.intrinsics.height)
        for number in range(3):
            stamp = round(number * DT * NANOSECONDS)
            if "color" in recognizer.streams:
                recognizer.add_color(stamp, made.frame.color)  # type: ignore[arg-type]
            recognizer.add_skeletons(stamp, [made.body], made.frame.up)
            if "flow" in recognizer.streams:
                recognizer.add_scene_flow(stamp, made.flow.velocity, made.flow.intrinsics)
        recognizer.predict()
    return {name: value[-1] for name, value in runs[-1].items()}


def motion(made: Shot) -> np.ndarray:
    """Return where the flow is sampled for each joint [25, 2], px: of a flow that is its own place."""
    intrinsics = made.frame.intrinsics
    places = np.stack([*np.meshgrid(np.arange(intrinsics.width), np.arange(intrinsics.height))], axis=-1)
    small = cv2.resize(places.astype(np.float32), made.flow.velocity.shape[1::-1], interpolation=cv2.INTER_AREA)
    flow = np.concatenate([small, small[..., :1]], axis=-1)
    return velocity_at_joints(flow, made.body.pixels, (intrinsics.width, intrinsics.height))[:, :2]


def measure(made: Shot, specs: Sequence[InputSpec], inputs: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return, by input, the distance of the moving pixels from the joint (px of 112), and their relative width."""
    intrinsics = made.frame.intrinsics
    size, turns = (intrinsics.width, intrinsics.height), gravity.quarter_turns(made.frame.up)  # type: ignore[arg-type]
    pixels = gravity.turn_pixels(made.body.pixels, *size, turns)
    found = {}
    for spec in specs:
        value = inputs[spec.name]
        if spec.modality == "flow_rgb":
            scale = spec.preprocessing["scale"] * 127.5 / np.array(spec.preprocessing["max_speed_m_s"])
            weight = excess(value[:, -1].transpose(1, 2, 0) / scale)
            exact = gravity.turn_image(made.speed, turns)
            joints = inputs.get("joint_pixels")
            place = joints[-1, HAND] if joints is not None else in_flow(center(exact), exact.shape, spec)
        elif spec.modality.endswith("_crop"):
            weight = value[0, -1] + 1
            exact = gravity.turn_image(made.frame.color[..., 0].astype(np.float32), turns)  # type: ignore[index]
            place = in_crop(center(exact), pixels, spec)
        elif spec.modality in ("motion", "motion_stamp"):
            error = np.abs(motion(made)[HAND] - made.body.pixels[HAND]).max()
            found[spec.name] = (float(error) * UNIT / intrinsics.height, 1.0)
            continue
        else:
            continue
        error = np.hypot(*(center(weight) - place)) * UNIT / value.shape[-1]
        found[spec.name] = (float(error), aspect(weight) / aspect(exact))
    return found


def in_flow(place: np.ndarray, shape: tuple[int, ...], spec: InputSpec) -> np.ndarray:
    """Return the place in the middle 112×112 px of the 4:3 crop, reduced to 160×120 px."""
    height, width = shape
    kept = min(spec.preprocessing["share"] * height, width * 3 / 4)
    return (place + 0.5 - [width / 2, height / 2]) * spec.shape[-1] * 120 / 112 / kept + spec.shape[-1] / 2 - 0.5


def in_crop(place: np.ndarray, pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the place in the square around the joints, or around the hand."""
    if spec.modality == "body_crop":
        low, high = np.nanmin(pixels, axis=0), np.nanmax(pixels, axis=0)
        middle, side = (low + high) / 2, (high - low).max() * spec.preprocessing["margin"]
    else:
        middle, side = pixels[HAND], spec.preprocessing["side"] * pixels_per_meter(pixels, "kinect_v2_25")
    return (place - middle) * spec.shape[-1] / side + spec.shape[-1] / 2 - 0.5


def main() -> None:
    print("| network | input | camera | distance offline, live (px of 112) | width of people |\n|---|---|---|---|---|")
    for camera in CAMERAS:
        for name in actrec_models.list_models():
            specs, window = inputs_of(name)
            made = shot(camera)
            rows = [measure(made, specs, make(made, specs, window)) for make in (offline, live) if specs]
            for key in rows[0] if rows else ():
                (a, width), (b, _) = rows[0][key], rows[1][key]
                print(f"| {name} | {key} | {camera} | {a:.2f}, {b:.2f} | {100 * width:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
