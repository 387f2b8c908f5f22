"""Registration of a bag's unregistered depth by its camera_info and transforms."""

import cv2
import numpy as np
import pytest

from actrec.utils.errors import InputError
from tests.core.cameras.two_views import COLOR, DEPTH, TwoViews, share_within
from tests.core.recordings.test_bag import MILLIMETERS, PERIOD, RGB, START, H, W, frames_of

COLOR_TOPIC, DEPTH_TOPIC = "/camera/color/image_rect", "/camera/depth/image_rect_raw"


def transform(rotation, translation):
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array(rotation, np.float64))[0]
    pose[:3, 3] = translation
    return pose


def projection(lens):
    return (lens.fx, 0, lens.cx, 0, 0, lens.fy, lens.cy, 0, 0, 0, 1, 0)


@pytest.fixture(scope="module")
def views():
    return TwoViews()


def written(bag, path, views, transforms, stamps=(START,)):
    color, _, depth = views.at(1.0)
    with bag(path) as b:
        for topic, lens in ((COLOR_TOPIC, COLOR), (DEPTH_TOPIC, DEPTH)):
            name = topic.rsplit("/", 1)[0]
            b.info(f"{name}/camera_info", START, lens.width, lens.height, p=projection(lens))
        for topic, sent in transforms:
            b.static(topic, START, sent)
        millimeters = np.nan_to_num(depth * 1000).round().astype(np.uint16)
        for k, stamp in enumerate(stamps):
            log_time = START + k * PERIOD
            b.image(DEPTH_TOPIC, stamp, millimeters, "16UC1", log_time=log_time, frame_id="camera_depth_optical_frame")
            b.image(COLOR_TOPIC, stamp, color, "rgb8", log_time=log_time, frame_id="camera_color_optical_frame")
    return path


@pytest.fixture(scope="module")
def chain(views):
    """Return transforms as a RealSense's driver sends them: both optical frames descend from camera_link."""
    color, optical = transform([0.02, 0.1, 0], [0, 0.015, 0]), transform([-1.2, 1.2, -1.2], [0, 0, 0])
    depth = color @ optical @ views.to_color @ np.linalg.inv(optical)
    return [
        ("camera_link", "camera_depth_frame", depth),
        ("camera_depth_frame", "camera_depth_optical_frame", optical),
        ("camera_link", "camera_color_frame", color),
        ("camera_color_frame", "camera_color_optical_frame", optical),
    ]


@pytest.mark.parametrize("topic", ["/tf_static", "/robot/tf_static"])
def test_bag_recording_depth_of_other_camera_registered(tmp_path, bag, views, chain, caplog, topic):
    sent = [(topic, chain[:2]), (topic, chain[2:])]
    (frame,) = frames_of(written(bag, tmp_path / "b", views, sent))
    _, exact, _ = views.at(1.0)
    assert np.isfinite(frame.depth).mean() > 0.99
    assert share_within(frame.depth, exact, pixels=2, meters=0.003) > 0.998
    assert "registering it to color by its camera_info and /tf_static" in caplog.text


def test_bag_recording_depth_of_other_camera_without_stamps_registered(tmp_path, bag, views, chain):
    frames = frames_of(written(bag, tmp_path / "b", views, [("/tf_static", chain)], stamps=(0, 0, 0)))
    assert [frame.stamp_ns for frame in frames] == [START + k * PERIOD for k in range(3)]
    assert share_within(frames[-1].depth, views.at(1.0)[1], pixels=2, meters=0.003) > 0.998


def test_bag_recording_frames_without_transform_warns(tmp_path, bag, views, chain, caplog):
    for name, sent in (("none", []), ("half", [("/tf_static", chain[:3])])):
        path = written(bag, tmp_path / name, views, sent)
        with pytest.raises(InputError, match="register depth to color first"):
            frames_of(path)
        assert frames_of(path, depth_topic="none")[0].depth is None
    warning = "/tf_static has no transform from 'camera_depth_optical_frame' to 'camera_color_optical_frame'"
    assert caplog.text.count(warning) == 2


def test_bag_recording_coarser_depth_in_same_frame_registered(tmp_path, bag, caplog):
    with bag(tmp_path / "b") as b:
        b.info("/camera/color/camera_info", START, W, H, p=(60, 0, 31.5, 0, 0, 60, 23.5, 0, 0, 0, 1, 0))
        b.info("/camera/depth/camera_info", START, W // 2, H // 2, p=(30, 0, 15.5, 0, 0, 30, 11.5, 0, 0, 0, 1, 0))
        b.image(DEPTH_TOPIC, START, np.full((H // 2, W // 2), 1500, np.uint16), "16UC1")
        b.image(COLOR_TOPIC, START, RGB, "rgb8")
    (frame,) = frames_of(tmp_path / "b")
    np.testing.assert_allclose(frame.depth[1:-1, 1:-1], 1.5, atol=1e-6)
    assert "registering it to color by its camera_info\n" in caplog.text


def test_bag_recording_depth_with_camera_info_of_color_not_registered(tmp_path, bag, chain, caplog):
    """Both topics use one camera_info; only depth is rectified."""
    with bag(tmp_path / "b") as b:
        b.static("/tf_static", START, chain)
        b.info("/camera/camera_info", START, W, H, p=(60, 0, 31.5, 0, 0, 60, 23.5, 0, 0, 0, 1, 0))
        b.image(DEPTH_TOPIC, START, MILLIMETERS, "16UC1", frame_id="camera_depth_optical_frame")
        b.image("/camera/image_raw", START, RGB, "rgb8", frame_id="camera_color_optical_frame")
    (frame,) = frames_of(tmp_path / "b")
    np.testing.assert_array_equal(np.nan_to_num(frame.depth * 1000).round().astype(int), MILLIMETERS)
    assert "(it has the camera_info of color)" in caplog.text


def test_bag_recording_depth_topic_marked_registered_unchanged(tmp_path, bag, views, chain):
    with bag(tmp_path / "b") as b:
        b.static("/tf_static", START, chain)
        b.info("/camera/color/camera_info", START, W, H)
        b.info("/camera/depth_registered/camera_info", START, W, H, fx=300.0)
        b.image(
            "/camera/depth_registered/image_raw", START, MILLIMETERS, "16UC1", frame_id="camera_depth_optical_frame"
        )
        b.image("/camera/color/image_raw", START, RGB, "rgb8", frame_id="camera_color_optical_frame")
    (frame,) = frames_of(tmp_path / "b")
    np.testing.assert_array_equal(np.nan_to_num(frame.depth * 1000).round().astype(int), MILLIMETERS)
