"""What a bag's topics are taken for: rectified, registered, of librealsense, in an encoding that is not known."""

import cv2
import pytest

from actrec.errors import ConfigError, InputError
from actrec.frames import Intrinsics
from actrec.recordings import open_recording
from tests.core.recordings.test_bag import COLOUR, INFO, MILLIMETRES, RGB, START, H, W, frames_of, stamps


def test_a_compressed_mosaic_is_not_taken_for_grey(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        mosaic = cv2.imencode(".jpg", RGB[..., 0])[1].tobytes()
        b.compressed(f"{COLOUR}/compressed", START, "bayer_rggb8; jpeg compressed ", mosaic)
    with pytest.raises(InputError, match=r"no colour images of a supported encoding .* \(bayer_rggb8; jpeg"):
        open_recording(tmp_path / "b")


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_rectified_images_go_by_the_projection_of_the_raw_ones_camera_info(tmp_path, bag, model):
    with bag(tmp_path / "b") as b:
        b.info("/cam/camera_info", START, W, H, model=model, p=(500, 0, 30, 0, 0, 501, 20, 0, 0, 0, 1, 0))
        b.image("/cam/image_rect_color", START, RGB, "rgb8")
        b.image("/cam/depth/image_rect_raw", START, MILLIMETRES, "16UC1")
    with open_recording(tmp_path / "b") as recording:
        assert recording.intrinsics == Intrinsics(W, H, 500, 501, 30, 20)


def test_depth_that_is_not_registered_is_said_once(tmp_path, bag, caplog):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(3):
            b.image("/camera/depth/image_rect_raw", stamp, MILLIMETRES, "16UC1", frame_id="depth_lens")
            b.image(COLOUR, stamp, RGB, "rgb8")
    assert len(frames_of(tmp_path / "b")) == 3
    assert caplog.text.count("depth on /camera/depth/image_rect_raw is seen from 'depth_lens', colour from 'lens'") == 1
    assert len(frames_of(tmp_path / "b", depth_topic="none")) == 3
    assert caplog.text.count("depth_lens") == 1


def test_a_recording_of_librealsense_is_for_its_driver(tmp_path, bag):
    depth, colour = (f"/device_0/sensor_{k}/{name}_0/image/data" for k, name in enumerate(("Depth", "Color")))
    with bag(tmp_path / "b") as b:
        b.info("/device_0/sensor_1/Color_0/image/camera_info", START, W, H)
        b.image(depth, START, MILLIMETRES, "16UC1")
        b.image(colour, START, RGB, "rgb8")
    with pytest.raises(ConfigError, match="is a recording of librealsense, .*: play it with driver realsense"):
        open_recording(tmp_path / "b")
    assert frames_of(tmp_path / "b", depth_topic="none")[0].depth is None
    assert frames_of(tmp_path / "b", depth_topic=depth, depth_scale=0.0001)[0].depth is not None
