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
    rotation, turns = _leveling(clip["up"])
    return _mapped(clip, partial(_level, rotation=rotation, turns=turns, size=_size(clip)))


def without_gravity(clip: Clip) -> Clip:
    """Return the clip without its key "up", in the camera's axes."""
    return _mapped(clip, lambda key, value: value)


def _mapped(clip: Clip, change: Callable[[str, np.ndarray], np.ndarray]) -> Clip:
    """Return the clip without its key "up", each value converted by `change(key, value)`, lazily if it is lazy."""
    keys = [key for key in clip if key != "up"]
    if not isinstance(clip, LazyClip):
        return {key: change(key, clip[key]) for key in keys}

    def make(key: str) -> np.ndarray:
        return change(key, clip[key])

    def span(key: str, start: int, frames: int) -> np.ndarray | None:
        images = clip.part(key, start, frames)
        return None if images is None else change(key, images)

    spans = {key: partial(span, key) for key in ("color", "flow") if key in clip}
    shown = None if clip.shown is None else _mapped(clip.shown, change)
    return LazyClip({key: partial(make, key) for key in keys}, spans, shown)


def level_view(view: BodyView, up: np.ndarray | None, reference: np.ndarray | None = None) -> BodyView:
    """Return one frame of a body in level axes; its image is turned as one of a camera with `up` = `reference` [3]."""
    if up is None or (gravity.is_level(up) and (reference is None or gravity.is_level(reference))):
        return view
    rotation, turns = _leveling(up)
    turns = turns if reference is None else gravity.quarter_turns(reference)
    size = view.size
    lost = size is None and turns != 0  # pixels cannot be turned in an image of unknown size

    def level(key: str, value: np.ndarray | None) -> np.ndarray | None:
        return None if value is None or (lost and key in PIXELS) else _level(key, value, rotation, turns, size)

    return dataclasses.replace(
        view,
        positions=level("bodies", view.positions),
        pixels=level("pixels", view.pixels),
        hand_pixels=level("hand_pixels", view.hand_pixels),
        size=size if size is None or turns % 2 == 0 else (size[1], size[0]),
        color=level("color", view.color),
        flow=level("flow", view.flow),
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


def _level(key: str, value: np.ndarray, rotation: np.ndarray, turns: int, size: tuple[int, int] | None) -> np.ndarray:
    """Rotate joints and velocities, turn images and pixels; `size` of the image is before the turn."""
    if key in ("color", "flow"):
        value = gravity.turn_image(value, turns, axis=value.ndim - 3)
    if key in (*JOINTS, "flow"):
        return (value @ rotation.T).astype(np.float32, copy=False)
    if key in PIXELS and turns:
        if size is None:
            raise InputError("pixels of a camera that is not upright need the size of the color image, key 'size'")
        return gravity.turn_pixels(value, *size, turns)
    if key == "motion":
        return gravity.turn_vectors(value, turns)
    return value[::-1].copy() if key == "size" and turns % 2 else value
