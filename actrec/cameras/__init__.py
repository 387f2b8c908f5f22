"""Camera drivers, found by name."""

from typing import Any

from actrec.cameras.base import Camera
from actrec.utils.registry import INSTALL_OPENCV, Registry

__all__ = ["DRIVERS", "Camera", "create"]

DRIVERS = Registry(
    "camera driver",
    {
        "realsense": "actrec.cameras.realsense.camera:RealSenseCamera",
        "azure_kinect": "actrec.cameras.azure_kinect.camera:AzureKinectCamera",
        "simulated": "actrec.cameras.simulated:SimulatedCamera",
        "replay": "actrec.cameras.replay:ReplayCamera",
        "webcam": "actrec.cameras.webcam:WebcamCamera",
    },
    install={
        "rosbags": "pip install rosbags",
        "av": "pip install av",
        "cv2": INSTALL_OPENCV,
        "numba": "pip install numba",
        "pyrealsense2": "pip install pyrealsense2 (it needs libusb: sudo apt-get install libusb-1.0-0)",
        "pykinect_azure": "pip install --no-deps pykinect-azure (its opencv-python conflicts with ours)",
    },
)


def create(name: str, **options: Any) -> Camera:
    """Create the driver `name`; `options` are the fields of its settings dataclass.

    Raises:
        ConfigError: Unknown driver or option; the known ones are listed.
        MissingLibraryError: A required library is not installed; the message names the command.
    """
    return DRIVERS.create(name, **options)
