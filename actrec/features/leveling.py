"""Clips and views in level axes, so that no feature depends on how the camera is mounted.

Joints and velocities are rotated to level axes (`actrec.utils.gravity.level_rotation`). Images, and pixels in them, are
turned by the quarter turns that bring them nearest to upright.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from actrec.features.specs import BodyView
from actrec.types import Clip, LazyClip
from actrec.utils import gravity
from actrec.utils.errors import InputError

JOINTS = ("bodies", "hands", "face")
PIXELS = ("pixels", "hand_pixels", "face_pixels")


def level_clip(clip: Clip) -> Clip:
    """Return the clip in level axes, without its key "up"; the clip of a level camera, or without that key, as it is.

    Images are turned on first access. Frames observed under the name of an input are level already.
    """
    if "up" not in clip or gravity.is_level(clip["up"]):
        return clip
    return _leveled(clip, *_leveling(clip["up"]), _size(clip))


def without_gravity(clip: Clip) -> Clip:
    """Return the clip without its key "up", in the camera's axes."""
    make = {key: partial(clip.__getitem__, key) for key in clip if key != "up"}
    if not isinstance(clip, LazyClip):
        return {key: value() for key, value in make.items()}
    spans: dict[str, Callable[[int, int], np.ndarray | None]] = {
        key: partial(clip.part, key) for key in ("color", "flow") if key in clip
    }
    return LazyClip(make, spans, None if clip.shown is None else without_gravity(clip.shown))


def _leveled(clip: Clip, rotation: np.ndarray, turns: int, size: tuple[int, int] | None) -> Clip:
    make = {key: partial(_level_key, clip, key, rotation, turns, size) for key in clip if key != "up"}
    if not isinstance(clip, LazyClip):
        return {key: value() for key, value in make.items()}
    spans: dict[str, Callable[[int, int], np.ndarray | None]] = {
        key: partial(_level_span, clip, key, rotation, turns) for key in ("color", "flow") if key in clip
    }
    return LazyClip(make, spans, None if clip.shown is None else _leveled(clip.shown, rotation, turns, size))


def level_view(view: BodyView, up: np.ndarray | None, reference: np.ndarray | None = None) -> BodyView:
    """Return one frame of a body in level axes; its image is turned as one of a camera with `up` = `reference` [3]."""
    if up is None or (gravity.is_level(up) and (reference is None or gravity.is_level(reference))):
        return view
    rotation, turns = _leveling(up)
    turns = turns if reference is None else gravity.quarter_turns(reference)
    size = view.size
    lost = size is None and turns != 0  # pixels cannot be turned in an image of unknown size
    return dataclasses.replace(
        view,
        positions=None if view.positions is None else _rotate(view.positions, rotation),
        pixels=None if view.pixels is None or lost else _turn_pixels(view.pixels, size, turns),
        hand_pixels=None if view.hand_pixels is None or lost else _turn_pixels(view.hand_pixels, size, turns),
        size=size if size is None or turns % 2 == 0 else (size[1], size[0]),
        color=None if view.color is None else _level_images(view.color, "color", rotation, turns),
        flow=None if view.flow is None else _level_images(view.flow, "flow", rotation, turns),
    )


def _leveling(up: np.ndarray) -> tuple[np.ndarray, int]:
    up = gravity.check_up(up)
    return gravity.level_rotation(up), gravity.quarter_turns(up)


def _size(clip: Clip) -> tuple[int, int] | None:
    if "size" in clip:
        return int(clip["size"][0]), int(clip["size"][1])
    if "color" in clip:
        return clip["color"].shape[2], clip["color"].shape[1]
    return None


def _level_key(clip: Clip, key: str, rotation: np.ndarray, turns: int, size: tuple[int, int] | None) -> np.ndarray:
    value = clip[key]
    if key in ("color", "flow"):
        return _level_images(value, key, rotation, turns)
    if key in JOINTS:
        return _rotate(value, rotation)
    if key in PIXELS:
        return _turn_pixels(value, size, turns)
    if key == "motion":
        return gravity.turn_vectors(value, turns)
    return value[::-1].copy() if key == "size" and turns % 2 else value


def _level_span(
    clip: LazyClip, key: str, rotation: np.ndarray, turns: int, start: int, frames: int
) -> np.ndarray | None:
    images = clip.part(key, start, frames)
    return None if images is None else _level_images(images, key, rotation, turns)


def _level_images(images: np.ndarray, key: str, rotation: np.ndarray, turns: int) -> np.ndarray:
    turned = gravity.turn_image(images, turns, axis=images.ndim - 3)
    return turned if key == "color" else _rotate(turned, rotation)


def _rotate(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return (vectors @ rotation.T).astype(np.float32, copy=False)


def _turn_pixels(pixels: np.ndarray, size: tuple[int, int] | None, turns: int) -> np.ndarray:
    if turns == 0:
        return pixels
    if size is None:
        raise InputError("pixels of a camera that is not upright need the size of the color image, key 'size'")
    return gravity.turn_pixels(pixels, *size, turns)
