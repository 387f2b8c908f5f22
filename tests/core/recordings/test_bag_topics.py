"""Choice of a bag's topics: rectified, registered, of librealsense, of unknown encoding."""

from contextlib import closing

import cv2
import numpy as np
import pytest

from actrec.cameras.replay import ReplayCamera
from actrec.perception.recorded_joints import read_bodies
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.rosbag.bag_writer import UP, BagWriter, typestore_with
from actrec.recordings.rosbag.image_bag import BagRecording
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, InputError
from tests.core.recordings.test_bag import COLOR, INFO, MILLIMETERS, RGB, START, H, W, frames_of, stamps


def test_find_topics_compressed_bayer_ignored(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        mosaic = cv2.imencode(".jpg", RGB[..., 0])[1].tobytes()
        b.compressed(f"{COLOR}/compressed", START, "bayer_rggb8; jpeg compressed ", mosaic)
    with pytest.raises(InputError, match=r"no color images of a supported encoding .* \(bayer_rggb8; jpeg"):
        open_recording(tmp_path / "b")


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_find_topics_rectified_images_use_projection_matrix(tmp_path, bag, model):
    with bag(tmp_path / "b") as b:
        b.info("/cam/camera_info", START, W, H, model=model, p=(500, 0, 30, 0, 0, 501, 20, 0, 0, 0, 1, 0))
        b.image("/cam/image_rect_color", START, RGB, "rgb8")
        b.image("/cam/depth/image_rect_raw", START, MILLIMETERS, "16UC1")
    with open_recording(tmp_path / "b") as recording:
        assert recording.intrinsics == Intrinsics(W, H, 500, 501, 30, 20)


def test_bag_recording_unregistered_depth_warns_once(tmp_path, bag, caplog):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(3):
            b.image("/camera/depth/image_rect_raw", stamp, MILLIMETERS, "16UC1", frame_id="depth_lens")
            b.image(COLOR, stamp, RGB, "rgb8")
    assert len(frames_of(tmp_path / "b")) == 3
    assert caplog.text.count("depth on /camera/depth/image_rect_raw is in frame 'depth_lens', color in 'lens'") == 1
    assert "(the bag has no camera_info for it)" in caplog.text
    assert len(frames_of(tmp_path / "b", depth_topic="none")) == 3
    assert caplog.text.count("depth_lens") == 1


def test_find_topics_librealsense_recording_raises(tmp_path, bag):
    depth, color = (f"/device_0/sensor_{k}/{name}_0/image/data" for k, name in enumerate(("Depth", "Color")))
    with bag(tmp_path / "b") as b:
        b.info("/device_0/sensor_1/Color_0/image/camera_info", START, W, H)
        b.image(depth, START, MILLIMETERS, "16UC1")
        b.image(color, START, RGB, "rgb8")
    with pytest.raises(ConfigError, match="was recorded by librealsense, .*: play it with driver realsense"):
        open_recording(tmp_path / "b")
    assert frames_of(tmp_path / "b", depth_topic="none")[0].depth is None
    assert frames_of(tmp_path / "b", depth_topic=depth, depth_scale=0.0001)[0].depth is not None


def test_find_topics_16_bit_infrared_is_not_depth(tmp_path, bag):
    for name, depth in (("with", "/camera/depth/image_raw"), ("without", None)):
        with bag(tmp_path / name) as b:
            b.info(INFO, START, W, H)
            b.image(COLOR, START, RGB, "rgb8")
            b.image("/camera/ir/image_raw", START, MILLIMETERS, "mono16")
            if depth:
                b.image(depth, START, MILLIMETERS, "16UC1")
        recording = BagRecording(tmp_path / name, RecordingConfig())
        assert recording.topics.depth == depth
        recording.close()


def test_find_topics_camera_without_namespace_finds_camera_info(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        for name, fx in (("/camera_info", 500.0), ("/depth/camera_info", 300.0), ("/other/camera_info", 200.0)):
            b.info(name, START, W, H, fx=fx)
        b.image("/image_raw", START, RGB, "rgb8")
        b.image("/depth/image_raw", START, MILLIMETERS, "16UC1")
        b.image("/side/image", START, RGB, "rgb8")
    with open_recording(tmp_path / "b", RecordingConfig(color_topic="/image_raw")) as recording:
        assert recording.intrinsics.fx == 500
    with pytest.raises(InputError, match="has no camera_info for /side/image"):
        open_recording(tmp_path / "b", RecordingConfig(color_topic="/side/image"))


def test_bag_recording_14_distortion_coefficients_checked(tmp_path, bag):
    rational, more = (0.1, 0.02, 0.0, 0.0, 0.3, 0.1, 0.2, 0.4), (0.001,) * 6
    for name, d in (("eight", (*rational, *[0.0] * 6)), ("fourteen", (*rational, *more))):
        with bag(tmp_path / name) as b:
            b.info(INFO, START, W, H, model="rational_polynomial", d=d)
            b.image(COLOR, START, RGB, "rgb8")
    with open_recording(tmp_path / "eight") as recording:
        assert recording.intrinsics.distortion == rational
    with pytest.raises(InputError, match="camera_info has 14 distortion coefficients, .* rectified images"):
        open_recording(tmp_path / "fourteen")


@pytest.mark.parametrize("model", ["pinhole", "None"])
def test_bag_recording_undistorted_lens_of_unknown_model_accepted(tmp_path, bag, model):
    for name, d in (("straight", (0.0,) * 5), ("empty", ()), ("bent", (0.1, 0.0, 0.0, 0.0, 0.0))):
        with bag(tmp_path / name) as b:
            b.info(INFO, START, W, H, model=model, d=d)
            b.image(COLOR, START, RGB, "rgb8")
    for name in ("straight", "empty"):
        with open_recording(tmp_path / name) as recording:
            assert recording.intrinsics.distortion == ()
    with pytest.raises(InputError, match=f"lens model is '{model}', but D is not zero"):
        open_recording(tmp_path / "bent")


def test_find_topics_compressed_format_in_capitals_found(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.compressed(f"{COLOR}/compressed", START, "JPEG", cv2.imencode(".jpg", RGB)[1].tobytes())
    assert len(frames_of(tmp_path / "b")) == 1


def test_find_topics_azure_kinect_all_topics_chooses_color_and_depth(tmp_path, bag):
    color_at_depth, depth_image = RGB[: H // 2], MILLIMETERS[: H // 2]
    with bag(tmp_path / "b") as b:
        b.info("/rgb/camera_info", START, W, H)
        for name in ("/depth/camera_info", "/rgb_to_depth/camera_info"):
            b.info(name, START, W, H // 2, fx=300)
        b.image("/rgb_to_depth/image_raw", START, color_at_depth, "rgb8", frame_id="depth_lens")
        b.image("/depth/image_raw", START, depth_image, "16UC1", frame_id="depth_lens")
        b.image("/depth_to_rgb/image_raw", START, MILLIMETERS, "16UC1")
        b.image("/rgb/image_raw", START, RGB, "rgb8")
    (frame,) = frames_of(tmp_path / "b")
    assert frame.depth.shape == (H, W)
    chosen = {"color_topic": "/rgb_to_depth/image_raw", "depth_topic": "/depth/image_raw"}
    assert frames_of(tmp_path / "b", **chosen)[0].depth.shape == (H // 2, W)


@pytest.mark.parametrize(
    ("topics", "color"),
    [
        (["/zed/left/image_rect_color", "/zed/rgb/image_rect_color"], "/zed/rgb/image_rect_color"),
        (["/zed/rgb/image_rect_color", "/zed/rgb_raw/image_raw_color"], "/zed/rgb/image_rect_color"),
        (["/zed/left/color/rect/image", "/zed/rgb/color/raw/image", "/zed/rgb/color/rect/image",
          "/zed/rgb/gray/rect/image"], "/zed/rgb/color/rect/image"),
        (["/robot/head/rgb/image_rect_color", "/robot/head_l/image_rect_color"], "/robot/head/rgb/image_rect_color"),
        (["/camera/rgb/image_mono", "/camera/rgb/image_rect_color"], "/camera/rgb/image_rect_color"),
        (["/camera/rgb/image_rect_color", "/camera/rgb/image_raw"], "/camera/rgb/image_raw"),
        (["/cams/front_color", "/cams/rear_color"], None),
        (["/a/color/image_raw", "/b/color/image_raw"], None),
    ],
)  # fmt: skip
def test_find_topics_many_color_topics_chooses_rgbd_camera(tmp_path, bag, topics, color):
    with bag(tmp_path / "b") as b:
        for topic in topics:
            b.info(f"{topic.rsplit('/', 1)[0]}/camera_info", START, W, H)
            b.image(topic, START, RGB, "rgb8")
    if color is None:
        with pytest.raises(ConfigError, match="has several: .*; choose one with color_topic"):
            open_recording(tmp_path / "b")
        return
    with closing(BagRecording(tmp_path / "b", RecordingConfig())) as recording:
        assert recording.topics.color == color


def test_find_topics_two_cameras_chooses_depth_of_color_camera(tmp_path, bag):
    with bag(tmp_path / "b") as b:
        for name in ("head", "wrist"):
            b.info(f"/robot/{name}/color/camera_info", START, W, H)
            b.image(f"/robot/{name}/color/image_raw", START, RGB, "rgb8")
        b.image("/robot/head/aligned_depth_to_color/image_raw", START, MILLIMETERS, "16UC1")
        b.image("/robot/wrist/depth/image_raw", START, MILLIMETERS, "16UC1")
    for name, depth in (("head", "aligned_depth_to_color"), ("wrist", "depth")):
        config = RecordingConfig(color_topic=f"/robot/{name}/color/image_raw")
        with closing(BagRecording(tmp_path / "b", config)) as recording:
            assert recording.topics.depth == f"/robot/{name}/{depth}/image_raw"


@pytest.mark.parametrize("registered", ["/depth_registered/image_rect", "/camera/depth_registered/image_raw"])
def test_find_topics_registered_depth_in_any_namespace_chosen(tmp_path, bag, registered):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "rgb8")
        b.image("/camera/depth/image_rect_raw", START, MILLIMETERS[: H // 2], "16UC1")
        b.image(registered, START, MILLIMETERS, "16UC1")
    assert frames_of(tmp_path / "b")[0].depth.shape == (H, W)


def test_find_topics_compressed_image_proc_topics_of_one_camera_chosen(tmp_path, bag):
    jpeg = cv2.imencode(".jpg", RGB)[1].tobytes()
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for name in ("image_raw", "image_rect_color"):
            b.compressed(f"/camera/color/{name}/compressed", START, "rgb8; jpeg compressed bgr8", jpeg)
    with closing(BagRecording(tmp_path / "b", RecordingConfig())) as recording:
        assert recording.topics.color == "/camera/color/image_raw/compressed"


def test_find_topics_all_transports_chooses_depth_transport(tmp_path, bag):
    color, depth = "/depth_cam/rgb/image_raw", "/depth_cam/depth/image_raw"
    with bag(tmp_path / "b") as b:
        b.info("/depth_cam/rgb/camera_info", START, W, H)
        jpeg, png = cv2.imencode(".jpg", RGB)[1].tobytes(), cv2.imencode(".png", MILLIMETERS)[1].tobytes()
        gray = cv2.imencode(".jpg", MILLIMETERS.astype("uint8"))[1].tobytes()
        b.compressed(f"{depth}/compressedDepth", START, "16UC1; compressedDepth png", bytes(12) + png)
        b.compressed(f"{depth}/compressed", START, "16UC1; jpeg compressed ", gray)
        b.compressed(f"{color}/compressed", START, "rgb8; jpeg compressed bgr8", jpeg)
    with closing(BagRecording(tmp_path / "b", RecordingConfig())) as recording:
        assert (recording.topics.color, recording.topics.depth) == (f"{color}/compressed", f"{depth}/compressedDepth")


def test_open_recording_skeletons_beside_images_without_color_plays_joints(tmp_path):
    """As `actrec record --topics /skeletons /scene_flow` writes it."""
    joints = np.zeros((25, 3), np.float32)
    body = Body("body_1", "kinect_v2_25", joints, joints[:, :2], joints[:, 0])
    with BagWriter(tmp_path / "b") as bag:
        for stamp in stamps(2):
            bag.write_bodies("/skeletons", stamp, "lens", [body])
            flow = bag._image(np.zeros((H, W, 3), np.float32), "32FC3", bag._header(stamp, "lens"))
            bag._write_message("/scene_flow", "sensor_msgs/msg/Image", stamp, flow)
    frames = frames_of(tmp_path / "b")
    assert [(frame.color, len(frame.skeletons)) for frame in frames] == [(None, 1)] * 2
    camera = ReplayCamera(path=str(tmp_path / "b"))
    assert not camera.has_color and camera.has_depth


@pytest.mark.parametrize("names", [["/front/up"], ["/camera/front/up", "/rear/up"], ["/front/measured_up"]])
def test_bag_direction_of_gravity_of_a_named_camera_is_read_for_images_and_skeletons(tmp_path, names):
    """As launch files name it with camera_name:=front. Skeletons of another tracker do not have it."""
    ups = [gravity.parse_mount("upside_down"), np.array(gravity.LEVEL)]  # of this camera, and of another one
    joints = np.zeros((25, 3), np.float32)
    body = Body("body_1", "kinect_v2_25", joints, joints[:, :2], joints[:, 0])
    types = typestore_with(UP).types
    with BagWriter(tmp_path / "b") as bag:
        for name, up in zip(names, ups, strict=False):
            bag.add_topic(name, UP)
            stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="lens")
            x, y, z = map(float, up)
            message = types[UP](header=header, vector=types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z))
            bag.write(name, START, typestore_with(UP).serialize_cdr(message, UP))
        for stamp in stamps(4):
            bag.write_frame(RgbdFrame(stamp, RGB, None, Intrinsics(W, H, 60.0, 60.0, 31.5, 23.5)))
            bag.write_bodies("/camera/skeletons", stamp, "lens", [body])
    np.testing.assert_allclose([frame.up for frame in frames_of(tmp_path / "b")], [ups[0]] * 4)
    np.testing.assert_allclose(read_bodies(tmp_path / "b").up, ups[0])
