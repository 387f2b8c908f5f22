"""Cameras with their detected bodies, for the clip recorder and the viewer."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from actrec import cameras
from actrec.perception.pipeline import BodyPerception
from actrec.recordings.clip_recorder import Observation, ReadObservation
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import RgbdFrame


@contextlib.contextmanager
def camera_observations(driver: str, options: dict[str, Any], images: bool) -> Iterator[ReadObservation]:
    """Open a camera as a source of observations for `actrec.recordings.clip_recorder`.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.
        images: Whether observations also write color and depth.

    Yields:
        Function that returns the next observation.

    Raises:
        ConfigError: The driver or an option is unknown.
        DeviceError: The camera is not connected.
        MissingLibraryError: The estimator's library is not installed.
    """
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(cameras.create(driver, **options))
        add_bodies = body_annotator(stack)

        def read(timeout_s: float) -> Observation:
            frame = add_bodies(camera.read(timeout_s))
            bodies = frame.skeletons

            def write(bag: BagWriter) -> None:
                bag.write_bodies(SKELETONS_TOPIC, frame.stamp_ns, frame.frame_id, bodies)
                if images and frame.color is not None:
                    bag.write_frame(dataclasses.replace(frame, skeletons=[]))

            return Observation(frame.stamp_ns, bodies, write)

        yield read


def body_annotator(stack: contextlib.ExitStack) -> Callable[[RgbdFrame], RgbdFrame]:
    """Return a function that adds the detected bodies to a frame; frames without color are returned unchanged.

    The models are loaded at the first color image and freed by `stack`.
    """
    perceptions: list[BodyPerception] = []

    def annotate(frame: RgbdFrame) -> RgbdFrame:
        if frame.color is None:
            return frame
        if not perceptions:
            perceptions.append(stack.enter_context(contextlib.closing(BodyPerception())))
        return dataclasses.replace(frame, skeletons=perceptions[0].process(frame))

    return annotate
