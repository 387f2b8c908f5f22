"""Discovery, unplugging and errors of Azure Kinects, and missing libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from actrec.cameras.azure_kinect.camera import AzureKinectCamera
from actrec.utils.errors import DeviceError, MissingLibraryError
from tests.core.cameras.k4a import studio
from tests.core.cameras.k4a.simulated_sdk import BUSY, NO_ACCESS, STARVED

FIRST, SECOND = "000111111111", "000222222222"


@pytest.fixture
def two(sdk, tmp_path):
    for slot, serial in enumerate((FIRST, SECOND)):
        sdk.plug(studio.simulated_camera(serial=serial).write(tmp_path / serial), slot)
    return sdk


def opened(sdk, **options):
    with AzureKinectCamera(library=sdk.library, **options) as camera:
        return camera.serial


def refusal(sdk, **options) -> str:
    with pytest.raises(DeviceError) as error:
        opened(sdk, **options)
    assert sdk.live() == {}
    return str(error.value)


def test_device_is_found_by_serial_number(two):
    assert opened(two, serial=SECOND) == SECOND
    assert opened(two, serial=FIRST) == FIRST
    assert opened(two, serial=int(FIRST)) == FIRST, "as YAML reads it"


def test_device_two_cameras_without_serial_number_raises(two):
    error = refusal(two)
    assert "2 Azure Kinects" in error and FIRST in error and SECOND in error and "option serial" in error


def test_device_unknown_serial_number_lists_connected(two):
    error = refusal(two, serial="000333333333")
    assert "000333333333" in error and FIRST in error and SECOND in error


def test_device_camera_in_use_does_not_hide_the_other(two):
    with AzureKinectCamera(library=two.library, serial=FIRST) as first:
        assert opened(two, serial=SECOND) == SECOND
        with pytest.raises(
            DeviceError, match=f"connected: {SECOND}; one more cannot be opened: another program uses it"
        ):
            opened(two, serial="000333333333")
        two.push(0, 1_000_000)
        assert first.read().color is not None


def test_device_none_connected_raises(sdk):
    assert "no Azure Kinect is connected" in refusal(sdk)


@pytest.mark.parametrize(
    "trouble, remedy",
    [(NO_ACCESS, "99-k4a.rules (idVendor 045e"), (BUSY, "another program uses it"), (STARVED, "its own USB 3 port")],
)
def test_device_unusable_camera_names_remedy(sdk, tmp_path, trouble, remedy):
    sdk.plug(studio.simulated_camera().write(tmp_path / "scene"))
    sdk.trouble(trouble)
    assert remedy in refusal(sdk)
    sdk.trouble(0)
    assert opened(sdk)


def test_camera_unplugged_and_replugged_opens_again(sdk, tmp_path):
    scene = studio.simulated_camera().write(tmp_path / "scene")
    sdk.plug(scene)
    camera = AzureKinectCamera(library=sdk.library)
    assert camera.live and camera.paced
    for _ in range(3):
        camera.open()
        sdk.push(0, 1_000_000)
        camera.read()
        sdk.unplug()
        with pytest.raises(DeviceError, match="unplugged"):
            camera.read()
        camera.close()
        with pytest.raises(DeviceError, match="no Azure Kinect is connected"):
            camera.open()
        sdk.plug(scene)
    camera.close()
    assert sdk.live() == {}


def test_load_missing_library_names_remedy(sdk, tmp_path):
    with pytest.raises(MissingLibraryError, match=r"nowhere.*libk4a1.4.*Orbbec.*option library"):
        AzureKinectCamera(library="/nowhere/libk4a.so").open()
    sdk.plug(studio.simulated_camera().write(tmp_path / "scene"))
    with pytest.raises(MissingLibraryError, match=r"libk4abt.*Body Tracking SDK.*bodies=false"):
        opened(sdk, bodies=True, body_library="/nowhere/libk4abt.so")
    assert sdk.live() == {}


def test_load_second_copy_of_library_raises(sdk, tmp_path):
    opened_once = refusal(sdk)
    copy = tmp_path / "libk4a.so"
    copy.write_bytes(Path(sdk.library).read_bytes())
    with pytest.raises(DeviceError, match="another process"):
        AzureKinectCamera(library=str(copy)).open()
    assert refusal(sdk) == opened_once


def test_create_without_sdk_raises_without_ending_process():
    script = (
        "from actrec.cameras.azure_kinect.camera import AzureKinectCamera\n"
        "from actrec.utils.errors import MissingLibraryError\n"
        "try:\n    AzureKinectCamera(library='libk4a_absent.so').open()\n"
        "except MissingLibraryError as error:\n    print('error:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("error: ") and done.stdout.count("\n") == 1 and not done.stderr
