"""The RealSense driver against the real librealsense: a software device behind its pipeline and filters."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyrealsense2 as rs
import pytest

from actrec import cameras
from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.camera import RealSenseCamera, from_realsense
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError, MissingLibraryError
from benchmarks import cameras as cameras_benchmark
from tests.core.cameras.software_realsense import UNITS, SoftwareRealSense, gray_image, streaming
from tests.core.cameras.two_views import COLOR, TwoViews, share_within

FLAT = np.full((480, 640), 1.5, np.float32)


@pytest.fixture
def context(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    made = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: made)
    return made


@pytest.fixture
def device(context):
    made = SoftwareRealSense()
    made.plug_into(context)
    return made


def test_read_registers_depth_to_color(device):
    color, exact, depth = device.views.at(1.0)
    with cameras.create("realsense") as camera:
        device.send(color, depth)
        frame = camera.read()
        frame.check()
        assert camera.intrinsics == frame.intrinsics
        np.testing.assert_allclose(frame.intrinsics.matrix, COLOR.matrix, atol=1e-4)
    np.testing.assert_array_equal(frame.color, color)
    assert np.isfinite(frame.depth).mean() > 0.99 and frame.depth.dtype == np.float32
    assert share_within(frame.depth, exact, pixels=1, meters=0.002) > 0.999
    assert np.nanmedian(np.abs(frame.depth - exact)) < UNITS


def test_read_depth_scale_replaces_the_cameras_unit(device):
    """Of a recording or a firmware that states a wrong unit; the frame has it, which warnings of people's size name."""
    color, exact, depth = device.views.at(1.0)
    with cameras.create("realsense") as camera:
        device.send(color, depth)
        assert camera.read().depth_scale == pytest.approx(UNITS)
    with cameras.create("realsense", depth_scale=2 * UNITS) as camera:
        device.send(color, depth / 2)
        frame = camera.read()
    assert frame.depth_scale == 2 * UNITS
    assert share_within(frame.depth, exact, pixels=1, meters=0.003) > 0.998


def test_read_with_distortion_and_filters_keeps_geometry(context):
    bent = Intrinsics(640, 480, 385.0, 385.5, 318.7, 241.3, (-0.05, 0.06, 0.0005, -0.0008, -0.02))
    straight = replace(bent, distortion=())
    device = SoftwareRealSense(views=TwoViews(depth=straight))
    color, exact, depth = device.views.at(1.0)
    grid = np.indices((480, 640), np.float32)[::-1].reshape(2, -1).T[:, None]
    seen = cv2.undistortPoints(grid, bent.matrix, np.array(bent.distortion), P=straight.matrix)
    depth = cv2.remap(depth, seen.reshape(480, 640, 2).astype(np.float32), None, cv2.INTER_NEAREST)
    device.views.depth = bent
    device.plug_into(context)
    options = {"decimation": 2, "spatial": True, "temporal": True, "hole_filling": "nearest"}
    with RealSenseCamera(**options) as camera:
        for _ in range(3):
            device.send(color, depth)
            frame = camera.read()
    inside = np.abs(frame.depth - exact) < 0.05
    assert inside.mean() > 0.95 and np.median(np.abs(frame.depth - exact)[inside]) < 0.01
    assert bent.distortion and realsense_lens_of(bent).distortion == pytest.approx(bent.distortion, abs=1e-6)


def realsense_lens_of(lens: Intrinsics, model=rs.distortion.brown_conrady) -> Intrinsics:
    made = rs.intrinsics()
    made.width, made.height, made.fx, made.fy, made.ppx, made.ppy = (
        lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy,
    )  # fmt: skip
    made.model, made.coeffs = model, list(lens.distortion)
    return from_realsense(made)


@pytest.mark.parametrize("model", [rs.distortion.inverse_brown_conrady, rs.distortion.modified_brown_conrady])
def test_from_realsense_lens_models_match_opencv(model):
    import cv2

    coefficients = (-0.05, 0.06, 0.0005, -0.0008, -0.02)
    lens = Intrinsics(640, 480, 600.0, 601.0, 320.0, 238.0, coefficients)
    fitted = realsense_lens_of(lens, model)
    made = rs.intrinsics()
    made.width, made.height, made.fx, made.fy, made.ppx, made.ppy = 640, 480, 600.0, 601.0, 320.0, 238.0
    made.model, made.coeffs = model, list(coefficients)
    points = np.random.default_rng(0).uniform((-0.5, -0.38, 1), (0.5, 0.38, 1), (50, 3))
    theirs = np.array([rs.rs2_project_point_to_pixel(made, point.tolist()) for point in points])
    ours = cv2.projectPoints(points, np.zeros(3), np.zeros(3), fitted.matrix, np.array(fitted.distortion))[0][:, 0]
    assert np.abs(ours - theirs).max() < 0.1
    assert realsense_lens_of(Intrinsics(640, 480, 600, 600, 320, 240, (0.0,) * 5)).distortion == ()
    with pytest.raises(DeviceError, match=r"five distortion coefficients fit .*: calibrate it"):
        realsense_lens_of(Intrinsics(640, 480, 300, 300, 320, 240, (0.5, 0.3, 0.3, 0.3, 0)), rs.distortion.ftheta)


def test_read_stamps_capture_time(device):
    with RealSenseCamera() as camera:
        taken = time.time() * 1e3 - 25
        device.send(gray_image(), FLAT, taken)
        assert camera.read().stamp_ns == round(taken * 1e6)
        assert 20 < camera.figures()["stamp_delay_ms"] < 5000


def test_read_hardware_clock_is_mapped_to_system_time(device):
    with RealSenseCamera() as camera:
        stamps = []
        for i in range(10):
            before = time.time_ns()
            device.send(gray_image(), FLAT, 5000.0 + 33.333 * i, domain=rs.timestamp_domain.hardware_clock)
            stamps.append(camera.read().stamp_ns)
            assert stamps[-1] <= time.time_ns()
        assert (np.diff(stamps) > 0).all()
        assert before - stamps[-1] < 1e9 and camera.figures()["clock_offset_ms"] > 1e9


def test_read_arrival_stamps_warns(device, caplog):
    with RealSenseCamera() as camera, caplog.at_level("WARNING"):
        for _ in range(2):
            device.send(gray_image(), FLAT, domain=rs.timestamp_domain.system_time)
            camera.read()
    assert caplog.text.count("stamps frames at arrival, not at capture") == 1


def test_read_late_reader_gets_newest_frame_and_skips_are_counted(device):
    with RealSenseCamera() as camera:
        device.send(gray_image(0), FLAT)
        camera.read()
        for shade in (10, 20, 30, 40):
            device.send(gray_image(shade), FLAT)
        time.sleep(1.0)  # they go through librealsense's calibrated threads
        reads = 1
        while camera.read(30.0).color.flat[0] != 40:
            reads += 1
        assert camera.skipped >= 1 and camera.skipped + reads == 4, "unread frames are counted"
        assert camera.figures()["skipped"] == camera.skipped


def test_read_unpaired_images_are_dropped_and_counted(device):
    with RealSenseCamera() as camera:
        now = time.time() * 1e3
        for i in range(5):
            device.send(gray_image(), FLAT, now + 100 * i, now + 100 * i - 50)
            with pytest.raises(DeviceError, match="connected but sent no frame within"):
                camera.read(0.1)
        assert camera.unpaired + camera.incomplete >= 2
        for i in range(10, 13):
            device.send(gray_image(), FLAT, now + 100 * i, now + 100 * i - 10)
        assert camera.read().stamp_ns == round((now + 1200) * 1e6), "ten milliseconds are less than half a frame"


class FramesetWithoutImages:
    def get_color_frame(self):
        return None

    get_depth_frame = get_color_frame


def test_read_incomplete_frameset_is_not_counted_as_skipped(device, monkeypatch):
    with RealSenseCamera() as camera:
        device.send(gray_image(), FLAT)
        camera.read()
        device._number += 1  # the frame that comes incomplete
        given, real = [FramesetWithoutImages()], camera._next
        monkeypatch.setattr(camera, "_next", lambda deadline: given.pop() if given else real(deadline))
        device.send(gray_image(), FLAT)
        camera.read()
        assert (camera.incomplete, camera.skipped) == (1, 0)


def test_open_another_camera_in_place_of_the_one_before(device, context):
    camera = RealSenseCamera()
    camera.open()
    camera.close()
    device.unplug()
    other = SoftwareRealSense("00999")
    other.plug_into(context)
    with camera:
        assert camera.serial == "00999"


def test_read_incomplete_framesets_are_dropped(device, monkeypatch):
    with RealSenseCamera() as camera:
        given = [FramesetWithoutImages(), FramesetWithoutImages()]
        real = camera._next
        monkeypatch.setattr(camera, "_next", lambda deadline: given.pop() if given else real(deadline))
        device.send(gray_image(), FLAT)
        camera.read()
        assert camera.incomplete == 2 == camera.figures()["without_color_or_depth"]


def test_camera_unplugged_and_replugged_opens_again(device, context, monkeypatch):
    camera = RealSenseCamera()
    camera.open()
    device.send(gray_image(), FLAT)
    camera.read()
    device.unplug()
    # The pipeline keeps the software device alive, which no cable does.
    with monkeypatch.context() as patch:
        patch.setattr(realsense_device, "connected", lambda context: {})
        with pytest.raises(DeviceError, match="843112070001 was unplugged: plug it in"):
            camera.read(0.1)
        began = time.monotonic()
        with pytest.raises(DeviceError, match="843112070001 was unplugged: plug it in"):
            camera.read(3600.0)  # it does not wait for frames that cannot come
        assert time.monotonic() - began < 600
    camera.close()
    with pytest.raises(DeviceError, match="no RealSense is connected"):
        camera.open()
    device.plug_into(context)
    camera.open()
    device.send(gray_image(77), FLAT)
    assert camera.read().color.flat[0] == 77
    camera.close()
    camera.close()


def test_open_after_stall_resets_camera(device, monkeypatch, caplog):
    camera = RealSenseCamera()
    camera.open()
    with pytest.raises(DeviceError, match="opening it again resets it"):
        camera.read(0.05)
    camera.close()
    with caplog.at_level("WARNING"):
        camera.open()
    assert "resetting RealSense 843112070001" in caplog.text and "cannot be reset" in caplog.text
    device.send(gray_image(), FLAT)
    camera.read()
    camera.close()
    caplog.clear()
    camera.open()
    assert "resetting" not in caplog.text, "it did not stall"
    camera.close()


def test_read_camera_that_stops_is_opened_again_before_it_is_reset(device, caplog):
    """It may have been plugged in again at once: a reset would take seconds."""
    camera = RealSenseCamera()
    camera.open()
    device.send(gray_image(), FLAT)
    camera.read(30.0)
    with pytest.raises(DeviceError, match="sent no frame within 1 s.*reset if it sends none when opened again"):
        camera.read(60.0)
    camera.close()
    camera.open()
    assert "resetting" not in caplog.text
    with pytest.raises(DeviceError, match="sent no frame within 0.1 s.*opening it again resets it"):
        camera.read(0.1)
    camera.close()


def test_wait_for_camera_after_reset_returns_or_raises(context, device, monkeypatch):
    fitted = iter([DeviceError("unplugged"), DeviceError("unplugged"), "back"])

    def find(*_):
        each = next(fitted)
        if isinstance(each, Exception):
            raise each
        return each

    monkeypatch.setattr(realsense_device, "find", find)
    assert realsense_device.wait_for(context, "1", 5.0) == "back"
    # At first, the camera is still on the bus: it is not taken for the one that has come back.
    fitted, buses = iter(["back"]), iter([{"1": "leaving"}, {"1": "leaving"}, {}])
    monkeypatch.setattr(realsense_device, "connected", lambda _: next(buses))
    assert realsense_device.wait_for(context, "1", 5.0) == "back"
    assert next(buses, None) is None
    monkeypatch.undo()
    monkeypatch.setattr(realsense_device, "find", lambda *_: (_ for _ in ()).throw(DeviceError("unplugged")))
    with pytest.raises(DeviceError, match=r"did not reappear within 0.1 s of its reset: unplug it"):
        realsense_device.wait_for(context, "1", 0.1)


def test_close_wakes_reader(device, monkeypatch):
    camera = RealSenseCamera()
    camera.open()
    errors: list[str] = []
    waiting, wait = threading.Event(), rs.pipeline.try_wait_for_frames

    def wait_for_frames(pipeline, timeout_ms):
        waiting.set()
        return wait(pipeline, timeout_ms)

    monkeypatch.setattr(rs.pipeline, "try_wait_for_frames", wait_for_frames)

    def read():
        try:
            camera.read(600.0)
        except DeviceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert waiting.wait(60)
    camera.close()
    reader.join(60)
    assert errors == ["the RealSense was closed during a read"]
    with pytest.raises(DeviceError, match="is not open"):
        camera.read()


def test_find_by_serial_number(context, device):
    second = SoftwareRealSense("00999")
    second.plug_into(context)
    with pytest.raises(ConfigError, match=r"there are 2 RealSense cameras: choose one with the setting serial: .*999"):
        RealSenseCamera().open()
    with pytest.raises(DeviceError, match=r"no RealSense has serial number 5; connected: .*843112070001 \(Software"):
        RealSenseCamera(serial="5").open()
    with RealSenseCamera(serial=999) as camera:
        assert camera.serial == "00999"
        second.send(gray_image(9), FLAT)
        assert camera.read().color.flat[0] == 9


def test_open_unknown_profile_lists_profiles(context, device):
    with pytest.raises(
        ConfigError, match=r"does not support color 1280×720 .* at 30 Hz; it supports color 640×480 at 30"
    ):
        RealSenseCamera(width=1280, height=720).open()
    slow = SoftwareRealSense("777", usb="2.1")
    slow.plug_into(context)
    with pytest.raises(DeviceError, match=r"USB 2.1 lacks the bandwidth; use a USB 3 port and cable"):
        RealSenseCamera(serial="777", fps=60).open()


def test_explain_start_error_names_remedy(device):
    def message(text):
        return str(realsense_device.explain_start_error(RuntimeError(text), device.device, "color"))

    assert "99-realsense-libusb.rules" in message("xioctl(VIDIOC_S_FMT) failed, errno=13 Last Error: Permission denied")
    assert "in use by another program" in message("xioctl(VIDIOC_S_FMT) failed Last Error: Device or resource busy")
    assert "set reset: always" in message("get_device_time_ms failed")


def test_find_without_permission_names_udev_rules(context, monkeypatch, tmp_path):
    (tmp_path / "2-1").mkdir()
    (tmp_path / "2-1/idVendor").write_text("8086\n")
    (tmp_path / "2-1/product").write_text("Intel(R) RealSense(TM) Depth Camera 435\n")
    monkeypatch.setattr(realsense_device, "USB", tmp_path)
    with pytest.raises(DeviceError, match=r"Camera 435 on USB, but permission to open it is denied: .*udev"):
        RealSenseCamera().open()


def test_set_options_sets_values_and_refuses_unknown(device):
    with RealSenseCamera(options="depth.frames_queue_size=8"):
        pass
    for text, message in (
        ("depth.foo=1", "has no option 'foo' that can be set; it has frames_queue_size"),
        ("depth.frames_queue_size=1e9", "expected 0 to"),
        ("depth.frames_queue_size=many", "expected 0 to"),
        ("laser=1", "expected depth.NAME=VALUE or color.NAME=VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            RealSenseCamera(options=text).open()
    with pytest.raises(ConfigError, match="Software RealSense has no color sensor; .*D405"):
        RealSenseCamera(options="color.exposure=3").open()


def test_open_busy_camera_is_device_error(device, monkeypatch):
    def busy(*_):
        raise RuntimeError("xioctl(VIDIOC_S_EXT_CTRLS) failed Last Error: Device or resource busy")

    monkeypatch.setattr(rs.sensor, "set_option", busy)
    with pytest.raises(DeviceError, match="RealSense 843112070001 is in use by another program"):
        RealSenseCamera(options="depth.frames_queue_size=8").open()


def test_open_uses_calibration_files(device, caplog):
    color, exact, depth = device.views.at(1.0)
    views, serial = device.views, device.serial
    half = views.color.resized(320, 240)
    calibration_files.write_intrinsics(calibration_files.path_of(serial, "color"), half, serial)
    geometry = calibration_files.DepthGeometry(views.to_color, scale=1.02, bias=-0.01)
    calibration_files.write_intrinsics(calibration_files.path_of(serial, "depth"), views.depth, serial, geometry)
    misread = (depth + 0.01) / np.float32(1.02)
    with RealSenseCamera() as camera, caplog.at_level("INFO"):
        device.send(color, misread)
        frame = camera.read()
        np.testing.assert_allclose(frame.intrinsics.matrix, views.color.matrix, atol=1e-9)
    assert share_within(frame.depth, exact) > 0.999
    assert np.nanmedian(np.abs(frame.depth - exact)) < 2 * UNITS
    with RealSenseCamera(calibration="factory") as camera:
        device.send(color, misread)
        assert np.nanmedian(np.abs(camera.read().depth - exact)) > 0.02
    calibration_files.path_of(serial, "mount").write_text("parent_frame: base\n")  # damaged, and not of the lenses
    with RealSenseCamera() as camera:
        assert camera.calibration().geometry.scale == 1.02
    calibration_files.write_intrinsics(calibration_files.path_of(serial, "color"), COLOR.resized(640, 360), serial)
    with pytest.raises(InputError, match="of another aspect ratio: calibrate at this size"):
        RealSenseCamera().open()


@pytest.mark.slow
def test_read_recording_plays_to_its_end(device, context, tmp_path: Path):
    bag = tmp_path / "run.db3"
    recorder = rs.recorder(str(bag), device.device)
    sensors = recorder.query_sensors()
    queue = rs.frame_queue(50)
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(queue)
    start = 1_700_000_000_000.0
    for i in range(12):
        device.send(gray_image(10 * i), FLAT, start + 33.4 * i)
        time.sleep(0.02)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    del recorder, sensors, sensor
    with RealSenseCamera(recording=str(bag), realtime=False) as camera:
        assert not camera.live and not camera.paced
        frames = []
        with pytest.raises(EndOfStream, match="has ended"):
            while True:
                frames.append(camera.read(5.0))
        assert camera.figures()["stamp_delay_ms"] < 1000, "not the recording's age"
    stamps = [frame.stamp_ns for frame in frames]
    assert [frame.color.flat[0] for frame in frames] == [10 * i for i in range(12)], "every frame"
    np.testing.assert_allclose(np.diff(stamps), 33.4e6, atol=1e5)
    np.testing.assert_allclose(np.nanmedian(frames[0].depth), 1.5, atol=0.03)
    with pytest.raises(DeviceError, match="there is no recording"):
        RealSenseCamera(recording=str(tmp_path / "none.bag")).open()
    (tmp_path / "odd.bag").write_text("no bag")
    with pytest.raises(DeviceError, match="is not a librealsense recording"):
        RealSenseCamera(recording=str(tmp_path / "odd.bag")).open()


def test_camera_benchmark_reports_figures(device, monkeypatch):
    with streaming(device):
        figures = cameras_benchmark.measure(["--driver", "realsense", "--minutes", "0.05"])
    assert figures["frames"] > 5 and figures["delay_p99_ms"] > 0 and figures["memory_mb_at_the_end"] > 50
    assert figures["color_and_depth_apart"] == 0
    with pytest.raises(ConfigError, match="--minutes is 0"):
        cameras_benchmark.measure(["--minutes", "0"])


def test_create_without_librealsense_names_remedy(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("actrec.cameras.realsense.camera")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(MissingLibraryError, match=r"'realsense' needs the library 'pyrealsense2'.*pip install pyreal"):
        cameras.create("realsense")

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "pyrealsense2":
                raise ImportError("libusb-1.0.so.0: cannot open shared object file", name="pyrealsense2.pyrealsense2")

    monkeypatch.delitem(sys.modules, "pyrealsense2")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingLibraryError, match=r"libusb-1.0.so.0: cannot open .*apt-get install libusb-1.0-0"):
        cameras.create("realsense")


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("every", [3, 4, 7])
def test_read_decimated_depth_keeps_geometry(device, every, calibrated):
    depth = np.full((480, 640), 2.0, np.float32)
    depth[:336, :336] = 1.0  # whole squares of 3, 4 and 7 pixels
    if calibrated:
        geometry = calibration_files.DepthGeometry(device.views.to_color)
        path = calibration_files.path_of(device.serial, "depth")
        calibration_files.write_intrinsics(path, device.views.depth, device.serial, geometry)
    corners = []
    for decimation in (1, every):
        with RealSenseCamera(decimation=decimation) as camera:
            device.send(gray_image(), depth)
            corners.append(np.argwhere(camera.read().depth < 1.5).max(axis=0))
    assert np.abs(corners[1] - corners[0]).max() <= 1


def test_read_without_filters_has_reported_intrinsics(device):
    with RealSenseCamera(decimation=2, register=False) as camera:
        device.send(gray_image(), np.full((480, 640), 2.0, np.float32))
        lens = camera.calibration().depth
        assert camera.read().depth.shape == (lens.height, lens.width) == (480, 640)
