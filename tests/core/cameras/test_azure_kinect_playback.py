"""Recordings of an Azure Kinect, played through the simulated libk4arecord."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from actrec.cameras.azure_kinect.camera import AzureKinectCamera
from actrec.utils.errors import DeviceError, EndOfStream, InputError, MissingLibraryError
from tests.core.cameras.k4a import studio
from tests.core.cameras.k4a.simulated_sdk import COLOR

PERIOD_US = 33_333
LONG = 12


@pytest.fixture
def recording(tmp_path):
    """Return the path of 12 frames: one has no depth, one has color and depth of different times."""
    shots = [
        dataclasses.replace(studio.shot(), color_us=500_000 + i * PERIOD_US, depth_us=500_000 + i * PERIOD_US)
        for i in range(LONG)
    ]
    shots[3] = dataclasses.replace(shots[3], parts=COLOR)
    shots[5] = dataclasses.replace(shots[5], depth_us=shots[5].depth_us + 20_000)
    return str(studio.simulated_camera(*shots).write(tmp_path / "take.mkv"))


def test_read_recording_plays_to_its_end(sdk, recording):
    camera = AzureKinectCamera(library=sdk.library, recording=recording, rate=0.0)
    assert not camera.live and not camera.paced
    with camera:
        frames = [camera.read() for _ in range(LONG - 2)]
        with pytest.raises(EndOfStream, match="take.mkv"):
            camera.read()
        assert camera.serial == "000123456789"
        assert (camera.incomplete, camera.unpaired, camera.skipped) == (1, 1, 0)
    exact = studio.rendered_views()[0].rendering
    assert (studio.agreement(frames[0].depth, exact.depth) < 0.002).mean() > 0.999
    assert np.abs(frames[0].color.astype(int) - exact.color).mean() < 3
    steps = np.diff([frame.stamp_ns for frame in frames]) / PERIOD_US / 1000
    assert steps == pytest.approx([1, 1, 2, 2, 1, 1, 1, 1, 1])


def test_read_recording_keeps_pace_and_restarts_on_open(sdk, recording):
    camera = AzureKinectCamera(library=sdk.library, recording=recording, rate=1000.0)
    assert camera.paced
    last = 0
    for _ in range(2):
        with camera:
            first = camera.read()
            assert first.stamp_ns > last
            for _ in range(LONG - 3):
                last = camera.read().stamp_ns
            with pytest.raises(EndOfStream):
                camera.read()


@pytest.mark.parametrize("color_format", ["bgra32", "nv12", "yuy2"])
def test_read_recording_supports_color_format(sdk, tmp_path, color_format):
    path = studio.simulated_camera(color_format=color_format).write(tmp_path / "take.mkv")
    with AzureKinectCamera(library=sdk.library, recording=str(path), rate=0.0) as camera:
        color = camera.read().color
    assert np.abs(color.astype(int) - studio.rendered_views()[0].rendering.color).mean() < 3


def test_open_recording_searches_libk4arecord_beside_libk4a(sdk, recording, tmp_path):
    alone = tmp_path / "libk4a.so"
    alone.symlink_to(sdk.library)
    with pytest.raises(MissingLibraryError, match=r"libk4arecord.*option library"):
        AzureKinectCamera(library=str(alone), recording=recording).open()


@pytest.mark.parametrize(
    "change, message",
    [({"tracks": 1}, "has no depth"), ({"tracks": 2}, "has no color"), ({"model": 1}, "lens model 1")],
)
def test_open_recording_without_depth_color_or_lens_model_raises(sdk, tmp_path, change, message):
    path = studio.simulated_camera(**change).write(tmp_path / "take.mkv")
    with pytest.raises(DeviceError, match=message):
        AzureKinectCamera(library=sdk.library, recording=str(path)).open()


def test_open_recording_invalid_file_raises(sdk, tmp_path, recording):
    with pytest.raises(DeviceError, match="there is no recording"):
        AzureKinectCamera(library=sdk.library, recording=str(tmp_path / "none.mkv")).open()
    (tmp_path / "text.mkv").write_text("no recording")
    with pytest.raises(DeviceError, match=r"not an Azure Kinect recording \(.*EBML"):
        AzureKinectCamera(library=sdk.library, recording=str(tmp_path / "text.mkv")).open()
    torn = tmp_path / "torn.mkv"
    whole = Path(recording).read_bytes()
    torn.write_bytes(whole[: len(whole) // 8])
    with AzureKinectCamera(library=sdk.library, recording=str(torn), rate=0.0) as camera:
        camera.read()
        with pytest.raises(InputError, match="damaged"):
            camera.read()


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there alone")
def test_read_recording_whose_name_is_not_utf8(sdk, recording, tmp_path):
    file = tmp_path / os.fsdecode(b"B\xfccher.mkv")
    file.write_bytes(Path(recording).read_bytes())
    with AzureKinectCamera(library=sdk.library, recording=str(file), rate=0.0) as camera:
        assert camera.read().color is not None
