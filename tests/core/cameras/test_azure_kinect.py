"""The Azure Kinect driver against a simulated libk4a: frames, stamps, dropped frames, released captures."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from actrec.cameras.azure_kinect.camera import AzureKinectCamera
from actrec.utils.errors import ConfigError, DeviceError
from tests.core.cameras.k4a import studio
from tests.core.cameras.k4a.simulated_sdk import COLOR, DEPTH, Shot

PERIOD_US = 33_333


@pytest.fixture
def camera(sdk, tmp_path):
    sdk.plug(studio.simulated_camera().write(tmp_path / "scene"))
    with AzureKinectCamera(library=sdk.library) as opened:
        yield opened


def test_read_depth_is_registered_to_one_pixel_and_2_mm(sdk, camera):
    sdk.push(0, 1_000_000)
    frame = camera.read()
    frame.check()
    exact = studio.rendered_views()[0].rendering
    outside = studio.agreement(frame.depth, exact.depth)
    assert (outside < 0.002).mean() > 0.999
    flat = studio.inside(exact.depth) & np.isfinite(frame.depth)
    off = np.abs(frame.depth - exact.depth)[flat]
    assert flat.mean() > 0.45 and np.quantile(off, 0.99) < 0.002 and np.median(off) < 0.0006
    assert frame.depth.dtype == np.float32 and not (frame.depth == 0).any()
    # Depth is missing beyond the depth camera's field of view.
    assert np.isnan(frame.depth[:, :20]).all()


def test_read_color_is_rgb(sdk, camera):
    sdk.push(0, 1_000_000)
    frame = camera.read()
    exact = studio.rendered_views()[0].rendering.color
    assert np.abs(frame.color.astype(int) - exact).mean() < 3  # JPEG
    assert frame.frame_id == "camera_color_optical_frame" and frame.skeletons == []
    assert camera.intrinsics == frame.intrinsics
    assert (frame.intrinsics.fx, frame.intrinsics.width) == (pytest.approx(607.4), 1280)


def test_read_bgra_is_exact(sdk, tmp_path):
    sdk.plug(studio.simulated_camera(color_format="bgra32").write(tmp_path / "scene"))
    with AzureKinectCamera(library=sdk.library, color_format="bgra32") as camera:
        sdk.push(0, 1_000_000)
        assert (camera.read().color == studio.rendered_views()[0].rendering.color).all()
        assert sdk.configured()["format"] == 3


def test_open_starts_configured_modes(sdk, tmp_path):
    simulated_camera = studio.simulated_camera(depth_mode=4, color_resolution=6)
    sdk.plug(simulated_camera.write(tmp_path / "scene"))
    options = {"color_mode": "3072p", "depth_mode": "wfov_unbinned", "fps": 15}
    with AzureKinectCamera(library=sdk.library, **options):
        assert sdk.configured() == {
            "format": 0, "resolution": 6, "depth_mode": 4, "rate": 1, "synchronized": 0, "imu_starts": 1
        }  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fps": 20}, "5, 15, 30"),
        ({"color_mode": "3072p"}, "fps=15"),
        ({"depth_mode": "wfov_unbinned"}, "fps=15"),
        ({"color_mode": "4320p"}, "720p"),
        ({"depth_mode": "narrow"}, "nfov_unbinned"),
        ({"exposure": 1}, "known"),
    ],
)
def test_config_unsupported_combination_raises(options, message):
    with pytest.raises(ConfigError, match=message):
        AzureKinectCamera(**options)


def test_read_late_reader_gets_newest_frame(sdk, camera):
    for i in range(6):
        sdk.push(0, 1_000_000 + i * PERIOD_US)
    first = camera.read().stamp_ns
    assert camera.skipped == 5
    sdk.push(0, 1_000_000 + 6 * PERIOD_US)
    assert camera.read().stamp_ns - first == pytest.approx(PERIOD_US * 1000, abs=3e6)
    assert camera.skipped == 5


def test_read_incomplete_and_unpaired_captures_are_dropped_and_counted(sdk, camera):
    sdk.push(0, 1_000_000, parts=COLOR)
    sdk.push(0, 1_000_000 + PERIOD_US, parts=DEPTH)
    sdk.push(0, 1_000_000 + 2 * PERIOD_US, depth_us=1_000_000 + 2 * PERIOD_US + 17_000)
    sdk.push(0, 1_000_000 + 3 * PERIOD_US, depth_us=1_000_000 + 3 * PERIOD_US + 16_000)
    sdk.push(0, 1_000_000 + 4 * PERIOD_US, parts=COLOR)
    camera.read()
    figures = camera.figures()
    dropped = [figures[name] for name in ("without_color_or_depth", "color_and_depth_apart", "skipped")]
    assert dropped == [3, 1, 0]


def test_read_damaged_jpeg_is_dropped_and_counted(sdk, tmp_path):
    good = studio.shot()
    bad = Shot(good.color, good.depth, jpeg=b"\xff\xd8 torn")
    sdk.plug(studio.simulated_camera(bad, good).write(tmp_path / "scene"))
    with AzureKinectCamera(library=sdk.library) as camera:
        sdk.push(0, 1_000_000)
        with pytest.raises(DeviceError, match="in time"):
            camera.read(timeout_s=0.1)
        sdk.push(1, 1_000_000 + PERIOD_US)
        assert camera.read().color is not None
        assert camera.figures()["damaged_color"] == 1


def test_read_late_frame_keeps_exposure_stamp(sdk, camera):
    offset = time.time_ns() - time.monotonic_ns()
    errors = []
    for late_ms in (0, 0, 0, 0, 5, 12, 3, 25, 8, 40):
        exposed_ns = time.monotonic_ns() - late_ms * 1_000_000
        sdk.push(0, exposed_ns // 1000)
        errors.append((camera.read().stamp_ns - exposed_ns - offset) / 1e6)
    assert np.abs(errors[3:]).max() < 3, "of the first frames, one may have been on time"
    assert camera.figures()["stamp_delay_ms"] > 3


def test_read_time_in_queue_is_not_delay(sdk, camera):
    offset = time.time_ns() - time.monotonic_ns()
    taken_ns = time.monotonic_ns() - 3_000_000_000  # 3 s ago, and received then
    sdk.push(0, taken_ns // 1000, late_ns=3_000_000_000)
    assert abs(camera.read().stamp_ns - (taken_ns + offset)) < 50e6
    assert camera.figures()["stamp_delay_ms"] < 50


def test_read_timeout_raises_and_next_read_succeeds(sdk, camera):
    with pytest.raises(DeviceError, match="no frame in time"):
        camera.read(timeout_s=0.12)
    sdk.push(0, 1_000_000)
    assert camera.read().color is not None


def test_read_releases_all_handles(sdk, camera):
    made = sdk.made("image")
    for i in range(45):
        sdk.push(0, 1_000_000 + i * PERIOD_US, parts=COLOR if i % 10 == 4 else COLOR | DEPTH)
        if i % 3 == 2:
            camera.read()
            assert sdk.live() == {"device": 1, "transformation": 1}
    assert sdk.made("image") - made > 90
    camera.close()
    assert sdk.live() == {}


def test_close_wakes_reader(sdk, camera, monkeypatch):
    errors = []
    waiting, wait = threading.Event(), camera._source.next

    def wait_for_capture(timeout_s: float) -> Any:
        waiting.set()
        return wait(timeout_s)

    monkeypatch.setattr(camera._source, "next", wait_for_capture)

    def read() -> None:
        try:
            camera.read(timeout_s=600)
        except DeviceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert waiting.wait(60)
    camera.close()
    reader.join(60)
    assert errors == ["the Azure Kinect was closed during a read"]
    with pytest.raises(DeviceError, match="not open"):
        camera.read()
