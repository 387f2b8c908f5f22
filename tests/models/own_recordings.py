"""Recordings of one's own, made up: a bag of bodies that walk."""

import numpy as np

from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import Body, Intrinsics, RgbdFrame
from tests.tiny_model import person_at

PERIOD_NS = 100_000_000
START = 1_700_000_000_000_000_000


def body(x, body_id="body_1"):
    return Body(body_id, "kinect_v2_25", person_at(x), np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))


def write_bag(path, bodies_at, frames=20, images=False):
    intrinsics = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with BagWriter(path) as bag:
        for k in range(frames):
            stamp = START + k * PERIOD_NS
            if (bodies := bodies_at(k)) is not None:
                bag.write_bodies(SKELETONS_TOPIC, stamp, "camera", bodies)
            if images:
                color, depth = np.full((48, 64, 3), k, np.uint8), np.full((48, 64), 2.0, np.float32)
                bag.write_frame(RgbdFrame(stamp, color, depth, intrinsics))
    return path


def walker(k):
    return [body(0.1 * k)]
