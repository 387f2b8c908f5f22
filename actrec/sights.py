"""What a camera sees, found by the same perception as in the live graph, with no ROS."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from actrec import capture
from actrec.frames import RgbdFrame
from actrec.perception import BodyPerception
from actrec.recordings.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.takes import Read, Sight


@contextlib.contextmanager
def of_camera(driver: str, options: dict[str, Any], images: bool) -> Iterator[Read]:
    """Opens a camera and finds the people in its frames.

    Args:
        driver: A name in `actrec.capture.DRIVERS`.
        options: Its settings.
        images: Whether a sight also writes colour and depth.

    Yields:
        Gives the next sight; see `actrec.takes.Read`.

    Raises:
        ConfigError: Unknown driver or option.
        DeviceError: There is no such camera.
        MissingLibraryError: The estimator's library is absent.
    """
    with contextlib.ExitStack() as held:
        camera = held.enter_context(capture.create(driver, **options))
        perceive = perceiver(held)

        def read(timeout_s: float) -> Sight:
            frame = camera.read(timeout_s)
            return _sight(perceive(frame), images)

        yield read


def perceiver(held: contextlib.ExitStack) -> Callable[[RgbdFrame], RgbdFrame]:
    """Gives a frame the people that are found in it; joints alone are taken as they are."""
    perception: list[BodyPerception] = []

    def perceive(frame: RgbdFrame) -> RgbdFrame:
        if frame.colour is None:
            return frame
        if not perception:
            perception.append(held.enter_context(contextlib.closing(BodyPerception())))
        return dataclasses.replace(frame, skeletons=perception[0].process(frame))

    return perceive


def _sight(frame: RgbdFrame, images: bool) -> Sight:
    bodies = frame.skeletons

    def write(bag: BagWriter) -> None:
        bag.write_bodies(SKELETONS_TOPIC, frame.stamp_ns, frame.frame_id, bodies)
        if images and frame.colour is not None:
            bag.write_frame(dataclasses.replace(frame, skeletons=[]))

    return Sight(frame.stamp_ns, bodies, write)
