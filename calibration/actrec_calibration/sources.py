"""Where the pictures of a board come from: a folder, a camera driver, a topic."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras
from actrec.recordings.video import IMAGE_SUFFIXES, image_files
from actrec.types import Intrinsics
from actrec.utils import files
from actrec.utils.errors import DeviceError, InputError


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        name: Its file's, or its number's.
        stamp_ns: When it was taken; 0 for a file.
        color: [H, W, 3] uint8 RGB.
        intrinsics: Where its camera tells them.
    """

    name: str
    stamp_ns: int
    color: np.ndarray
    intrinsics: Intrinsics | None = None


Read = Callable[[float], Picture]
"""Gives the next picture within so many seconds; raises EndOfStream or DeviceError."""

Newest = Callable[[float], tuple[int, np.ndarray, Intrinsics | None]]
"""Gives within so many seconds the newest image's stamp, [H, W, 3] uint8 RGB, and intrinsics where they are told."""

OpenTopic = Callable[[str], contextlib.AbstractContextManager[Newest]]
"""Subscribes to a topic."""


def of_folder(folder: str) -> list[Path]:
    """A folder's pictures, in the order of their numbers.

    Raises:
        DeviceError: There is no such folder.
        InputError: It holds no pictures.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give one of pictures of the board")
    found = image_files(path)
    if not found:
        raise InputError(f"'{folder}' holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def read_file(path: Path) -> Picture:
    """One picture of a folder; one of 16 bit, as infrared is, made visible.

    Raises:
        InputError: It is damaged.
    """
    # As the sensor gave it: the lens's coefficients are of the image that was not turned as a photograph is.
    image = files.read_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"'{path}' is no picture that can be read: take it out of the folder or copy it again")
    if image.dtype != np.uint8:
        return Picture(path.name, 0, np.repeat(visible(image.mean(axis=2))[..., None], 3, axis=2))
    return Picture(path.name, 0, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def visible(gray: np.ndarray) -> np.ndarray:
    """[H, W] uint8 of brightness [H, W] on any scale, stretched: infrared falls off with the square of the distance."""
    low, high = np.percentile(gray, [1, 99])
    bright = np.clip((gray - low) / max(high - low, 1), 0, 1)
    return np.round(255 * np.sqrt(bright)).astype(np.uint8)


@contextlib.contextmanager
def of_driver(driver: str, options: dict[str, Any]) -> Iterator[Read]:
    """Opens a camera, with no ROS.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.

    Yields:
        Gives the next picture.

    Raises:
        ConfigError: Unknown driver or option.
        DeviceError: There is no such camera.
    """
    with cameras.create(driver, **options) as camera:
        number = 0

        def read(timeout_s: float) -> Picture:
            nonlocal number
            frame = camera.read(timeout_s)
            if frame.color is None:
                raise InputError(f"driver {driver} gives no images here, only joints: choose a camera or a recording")
            number += 1
            return Picture(f"frame_{number:06d}", frame.stamp_ns, frame.color, frame.intrinsics)

        yield read


@contextlib.contextmanager
def of_topic(images: OpenTopic, topic: str) -> Iterator[Read]:
    """Subscribes to a topic of images.

    Args:
        images: `actrec_nodes.common.image_topic.images`, handed down: this package knows nothing of ROS.
        topic: Of the images.

    Yields:
        Gives the newest picture.

    Raises:
        DeviceError: Nobody publishes it (when it is read).
    """
    with images(topic) as newest:
        number = 0

        def read(timeout_s: float) -> Picture:
            nonlocal number
            stamp_ns, color, intrinsics = newest(timeout_s)
            number += 1
            return Picture(f"image_{number:06d}", stamp_ns, color, intrinsics)

        yield read
