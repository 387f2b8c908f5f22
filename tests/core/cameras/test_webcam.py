"""The webcam driver on video files and on a local HTTP stream that slows down, stalls or ends."""

import logging
import os
import socket
import socketserver
import threading
import time
from itertools import pairwise
from typing import Any, ClassVar

import av
import cv2
import numpy as np
import pytest

from actrec import cameras
from actrec.cameras.mounting import open_mounted
from actrec.cameras.webcam import WebcamCamera
from actrec.cli import main
from actrec.perception import recorded_joints
from actrec.perception.recorded_joints import camera_observations
from actrec.recordings import open_recording
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import RgbdFrame
from actrec.utils import gravity
from actrec.utils.calibration_files import Mount, from_fov, path_of, write_intrinsics, write_mount
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError

PEOPLE = "videos/people_1080p.mp4"


def test_webcam_video_file_plays_every_frame(data_root, caplog) -> None:
    path = data_root / PEOPLE
    with caplog.at_level(logging.WARNING), cameras.create("webcam", source=str(path), fps=200.0) as camera:
        frames = []
        with pytest.raises(EndOfStream, match="has ended"):
            while True:
                frames.append(camera.read(10.0))
    assert len(frames) == 72 and not camera.live and camera.skipped == 0
    assert {b.stamp_ns - a.stamp_ns for a, b in pairwise(frames)} == {5_000_000}, "in the file's time, not the reader's"
    with av.open(str(path)) as video:
        first = next(video.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(frames[0].color.astype(int) - first).mean() < 3  # OpenCV converts colors by another matrix
    assert frames[0].depth is None and not camera.has_depth
    frames[0].check()
    assert camera.intrinsics == from_fov(1920, 1080, 65.0)
    assert camera.calibration().color is None, "an assumption is no calibration"
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and "assuming a field of view of 65 degrees" in warnings[0]


def test_webcam_calibration_file_is_scaled_to_the_image(data_root, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    path = path_of("desk", "color")
    write_intrinsics(path, from_fov(640, 360, 50.0), "desk")
    source = str(data_root / PEOPLE)
    for options in ({"serial": "desk"}, {"intrinsics": str(path)}):
        with caplog.at_level(logging.WARNING), WebcamCamera(source=source, **options) as camera:
            assert camera.intrinsics.fx == pytest.approx(from_fov(1920, 1080, 50.0).fx)
            assert camera.calibration().color == camera.intrinsics
    assert not caplog.records
    write_intrinsics(path, from_fov(640, 480, 50.0), "desk")
    with pytest.raises(InputError, match="of another aspect ratio"), WebcamCamera(source=source, serial="desk"):
        pass


def test_webcam_unknown_source_raises_with_remedy(tmp_path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    for source, message in (
        ("/dev/video987", r"there is no device /dev/video987 \(connected: .*\); set source"),
        ("987", "there is no device /dev/video987"),
        (str(text), "it is not a video that OpenCV reads"),
        (str(tmp_path / "gone.mp4"), "set the option source to the index of a webcam"),
        ("http://user:secret@127.0.0.1:9/x", "cannot open the webcam 'http://127.0.0.1:9/x': no video comes from"),
    ):
        with pytest.raises(DeviceError, match=message), WebcamCamera(source=source, open_timeout_s=2.0):
            pass
    with pytest.raises(ConfigError, match="expected four characters"):
        WebcamCamera(fourcc="MJPEG")
    with pytest.raises(DeviceError, match="is not open"):
        WebcamCamera().read()


def test_webcam_without_linux_does_not_open_names_no_command_of_linux(monkeypatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(DeviceError, match=r"macOS: Privacy & Security, Camera") as raised:
        WebcamCamera(source="987").open()
    assert "usermod" not in str(raised.value) and "/dev/" not in str(raised.value)


def test_webcam_server_that_never_answers_raises_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/stream"
        with pytest.raises(DeviceError, match="no video comes from there; .* open_timeout_s, if it is slow"):
            WebcamCamera(source=source, open_timeout_s=0.5).open()


class Stream(socketserver.ThreadingTCPServer):
    """An HTTP server of motion JPEG whose images show their number (`number_of`), at 100 Hz until `stalled` is set."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.number, self.stalled, self.ended = 0, threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/stream.mjpg"


class _Handler(socketserver.StreamRequestHandler):
    server: Stream

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=image\r\n\r\n")
        while not self.server.ended.is_set():
            if not self.server.stalled.is_set():
                self.server.number += 1
                image = np.zeros((48, 64, 3), np.uint8)
                image[:, :32], image[:, 32:] = (4 * digit for digit in divmod(self.server.number % 3600, 60))
                jpeg = cv2.imencode(".jpg", image)[1].tobytes()
                head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return
            time.sleep(0.01)


def number_of(frame: RgbdFrame) -> int:
    """Return the number that an image of a `Stream` shows."""
    assert frame.color is not None
    high, low = (round(float(half.mean()) / 4) for half in np.split(frame.color, 2, axis=1))
    return 60 * high + low


@pytest.fixture
def stream():
    with Stream() as server:
        yield server
        server.ended.set()
        server.shutdown()


def test_webcam_slow_reader_gets_the_newest_frame(stream) -> None:
    with WebcamCamera(source=stream.url) as camera:
        reader, last = camera._reader, number_of(camera.read(5.0))
        assert reader is not None
        for reads in (2, 3, 4):
            due = camera.skipped + 20
            while reader.skipped < due:
                time.sleep(0.01)
            newest = number_of(camera.read(5.0))
            assert last + 20 < newest <= reads + camera.skipped, "it replaced the frames that were not read"
            last = newest
        assert camera.figures()["skipped"] == camera.skipped


@pytest.mark.parametrize(("back_s", "follows"), [(0.5, False), (3600.0, True)])
def test_webcam_stamps_follow_a_clock_that_is_set_back(stream, monkeypatch, back_s: float, follows: bool) -> None:
    """Small corrections are smoothed out; after others, people would get no label for as long as the clock jumped."""
    with WebcamCamera(source=stream.url) as camera:
        before = camera.read(5.0).stamp_ns
        now = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now() - round(back_s * 1e9))
        stamps = [camera.read(5.0).stamp_ns for _ in range(12)]
    assert (stamps[-1] < before) == follows
    newest = stamps[4:]  # a frame may have waited
    assert all(a < b for a, b in pairwise(newest))
    assert not follows or newest[-1] - newest[0] > 1000, "by the clock, not by a nanosecond each"


def test_webcam_stalled_stream_raises_and_opens_again(stream) -> None:
    camera = WebcamCamera(source=stream.url, open_timeout_s=20.0)
    with camera:
        camera.read(5.0)
        stream.stalled.set()
        with pytest.raises(DeviceError, match=r"sent no frame for 0\.3 s: check its cable, or its network"):
            while True:
                camera.read(0.3)
        camera.close()  # although its thread waits for the stream
        stream.stalled.clear()
        camera.open()
        assert camera.read(5.0).color.shape == (48, 64, 3)


def test_webcam_stream_that_ends_raises(stream) -> None:
    with WebcamCamera(source=stream.url) as camera:
        stream.ended.set()
        with pytest.raises(DeviceError, match="stopped: it was unplugged, or its stream ended"):
            while True:
                camera.read(5.0)


def test_webcam_closed_during_a_read_raises(stream, monkeypatch) -> None:
    with WebcamCamera(source=stream.url) as camera:
        stream.stalled.set()
        with pytest.raises(DeviceError, match="sent no frame"):
            while True:
                camera.read(0.3)
        changed, waiting = camera._reader._changed, threading.Event()
        wait_for = changed.wait_for

        def waits(came: Any, limit_s: float) -> bool:
            waiting.set()
            return wait_for(came, limit_s)

        def close() -> None:
            assert waiting.wait(60)
            camera.close()

        monkeypatch.setattr(changed, "wait_for", waits)
        threading.Thread(target=close, daemon=True).start()
        with pytest.raises(DeviceError, match="was closed during a read"):
            camera.read(20.0)


def test_record_and_annotate_use_the_mount_of_the_camera(data_root, tmp_path, monkeypatch) -> None:
    """`SERIAL_mount.yaml` of a camera that hangs upside down; the option `mount` of any driver comes before it."""
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    up = gravity.parse_mount("upside_down")
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # z of the robot's frame is y of the image
    write_mount(path_of("desk", "mount"), Mount("base_link", "camera_color_optical_frame", pose))
    options = {"source": str(data_root / PEOPLE), "serial": "desk", "fps": 200.0}
    pairs = [f"{name}={value}" for name, value in options.items()]
    words = [word for pair in pairs for word in ("--driver-option", pair)]
    record = ["record", "--driver", "webcam", *words, "--duration", "0.1", "--out"]
    assert main([*record, str(tmp_path / "bag")]) == 0
    with open_recording(tmp_path / "bag") as recording:
        np.testing.assert_allclose(next(recording.frames()).up, up, atol=1e-6)
    for change, source, expected in (
        ({}, "calibration", up),
        ({"mount": "portrait_left"}, "setting", gravity.parse_mount("portrait_left")),
    ):
        with open_mounted("webcam", {**options, **change}) as read:
            frame = read(10.0)
        assert frame.up_source == source
        np.testing.assert_allclose(frame.up, expected, atol=1e-6)
        with camera_observations("webcam", {**options, **change}, images=False) as observe:
            with BagWriter(tmp_path / source) as bag:
                observe(10.0).write(bag)
        (observed,) = open_recording(tmp_path / source).frames()
        np.testing.assert_allclose(observed.up, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="mount is 'askew'"), open_mounted("webcam", {**options, "mount": "askew"}):
        pass


def test_record_loads_its_networks_before_the_first_frame_counts(monkeypatch) -> None:
    """Else a countdown would run while they are loaded, and the person has not even stood up."""
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    loaded, load = [], recorded_joints.BodyPerception.__init__

    def slowly(self, *args, **options):
        load(self, *args, **options)
        loaded.append(time.time_ns())

    monkeypatch.setattr(recorded_joints.BodyPerception, "__init__", slowly)
    with camera_observations("webcam", {"source": "0"}, False) as read:
        first = read(5.0)
    assert len(loaded) == 1 and first.stamp_ns > loaded[0]


class Device:
    """Capture of a V4L2 device: it changes its size once both sides are set, and has 10 Hz and YUYV alone."""

    sizes: ClassVar = [(640, 480)]

    def __init__(self, *_: object):
        self.size, self.asked = [640, 480], [0, 0]

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, key: int) -> float:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        if key in sides:
            return float(self.size[sides.index(key)])
        return {cv2.CAP_PROP_FPS: 10.0, cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV"))}.get(key, 0.0)

    def set(self, key: int, value: float) -> bool:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        if key in sides:
            self.asked[sides.index(key)] = int(value)
            if all(self.asked):
                w, h = self.asked

                def apart(size: tuple[int, int]) -> int:  # as uvcvideo compares areas
                    return size[0] * size[1] + w * h - 2 * min(size[0], w) * min(size[1], h)

                self.size = [*min(self.sizes, key=apart)]
            return True
        return False

    def grab(self) -> bool:
        time.sleep(0.01)
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return self.read()

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((self.size[1], self.size[0], 3), np.uint8)

    def release(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("option", "sizes", "expected"),
    [
        ({"width": 1280}, [(640, 480), (864, 480), (1280, 720)], (1280, 720)),
        ({"height": 720}, [(640, 480), (864, 480), (1280, 720)], (1280, 720)),
        ({"height": 480}, [(1280, 720), (640, 480)], (640, 480)),
        ({"width": 1920}, [(640, 480), (1920, 1080), (2592, 1944)], (1920, 1080)),
        ({"width": 1600}, [(640, 480), (1280, 720), (1600, 1200)], (1600, 1200)),
    ],
)
def test_webcam_one_side_of_the_size_suffices(monkeypatch, caplog, option, sizes, expected) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    monkeypatch.setattr(Device, "sizes", sizes)
    with WebcamCamera(source="0", **option) as camera:
        assert (camera.intrinsics.width, camera.intrinsics.height) == expected
    assert "has no images of" not in caplog.text


def test_webcam_names_rate_and_format_that_the_device_does_not_take(monkeypatch, caplog) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    with WebcamCamera(source="0", fps=30.0):
        pass
    assert "sends 10 images a second instead of 30; cameras on USB 2 often need fourcc=MJPG" in caplog.text
    with WebcamCamera(source="0", fourcc="MJPG"):
        pass
    assert "sends YUYV instead of MJPG" in caplog.text
    with WebcamCamera(source="rtsp://camera/stream", fps=5.0):
        pass
    assert "comes at its own rate: fps and fourcc are of devices" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_webcam_video_whose_name_is_not_utf8_is_refused(tmp_path) -> None:
    file = tmp_path / os.fsdecode(b"B\xfccher.mp4")
    file.write_bytes(b"x")
    with pytest.raises(DeviceError, match="not UTF-8: rename it"), WebcamCamera(source=str(file)):
        pass


def test_webcam_video_that_fails_is_damaged(tmp_path, monkeypatch) -> None:
    def fail(self) -> bool:
        raise cv2.error("broken")

    monkeypatch.setattr(cv2, "VideoCapture", Device)
    monkeypatch.setattr(Device, "grab", fail, raising=False)
    (tmp_path / "a.mp4").touch()
    with WebcamCamera(source=str(tmp_path / "a.mp4")) as camera, pytest.raises(InputError, match=r"failed: .*broken"):
        for _ in range(2):
            camera.read(5.0)


@pytest.mark.parametrize("password", ["secret", "p@ss", "@@"])
def test_webcam_name_has_no_part_of_the_password(password: str) -> None:
    assert WebcamCamera(source=f"rtsp://user:{password}@10.0.0.7/a@b?c@d").name == "webcam 'rtsp://10.0.0.7/a@b?c@d'"
