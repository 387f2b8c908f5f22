"""Cameras and accelerators, as the kernel shows them."""

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actrec import camera_files
from actrec.diagnosis.finding import Finding
from actrec.errors import ActrecError

USB = Path("/sys/bus/usb/devices")
JETSON_RELEASE = Path("/etc/nv_tegra_release")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Maker:
    """A camera maker: how its devices are recognised and what drives them.

    Attributes:
        name: Of the family.
        products: Words of which one is in the device's product name; empty for any device of the vendor.
        library: Python module of the driver.
        remedy: How to install the driver.
    """

    name: str
    products: tuple[str, ...]
    library: str
    remedy: str


_AZURE = "install the Azure Kinect SDK (libk4a) or Orbbec's K4A wrapper, then: pip install --no-deps pykinect-azure"
MAKERS = {
    "8086": Maker("Intel RealSense", ("RealSense",), "pyrealsense2", "pip install pyrealsense2"),
    "045e": Maker("Azure Kinect", ("Azure Kinect", "Kinect"), "pykinect_azure", _AZURE),
    "2bc5": Maker("Orbbec", (), "pykinect_azure", f"{_AZURE}; or start Orbbec's ROS driver: vendor:=orbbec_camera"),
}
"""USB vendor id to maker."""


def findings() -> Iterator[Finding]:
    """Every check of this module."""
    yield from cameras()
    yield from accelerators()


def cameras(usb: Path = USB) -> Iterator[Finding]:
    """Each RGB-D camera on the USB bus and whether its driver library is installed."""
    seen = list(_usb_cameras(usb))
    for maker, product, speed_mbps in seen:
        installed = importlib.util.find_spec(maker.library) is not None
        driver = "" if installed else f", driver library {maker.library} is not installed"
        yield Finding(
            "cameras", maker.name, installed, f"{product} on USB at {speed_mbps:g} Mbit/s{driver}", maker.remedy
        )
        if 0 < speed_mbps < 5000:
            remedy = "use a USB 3 port and cable: colour and depth together need more than USB 2 carries"
            yield Finding("cameras", f"{maker.name} link", False, f"{speed_mbps:g} Mbit/s", remedy)
    if MAKERS["8086"] in [maker for maker, *_ in seen] and importlib.util.find_spec("pyrealsense2") is not None:
        yield _realsense_devices()
    if any(maker.library == "pykinect_azure" for maker, *_ in seen):
        yield _azure_library()
    if not seen:
        remedy = "plug one in, or run: actrec run --driver simulated"
        yield Finding("cameras", "RGB-D camera", False, "none on USB", remedy)


def _usb_cameras(usb: Path) -> Iterator[tuple[Maker, str, float]]:
    for device in sorted(usb.glob("*")):
        maker = MAKERS.get(_read(device / "idVendor"))
        product = _read(device / "product")
        if maker and (not maker.products or any(word in product for word in maker.products)):
            yield maker, product or "unnamed device", float(_read(device / "speed") or 0)


def _realsense_devices() -> Finding:
    try:
        realsense = importlib.import_module("actrec.capture.realsense")
        devices = importlib.import_module("actrec.capture.realsense_device").connected(realsense.open_context())
    except (ImportError, RuntimeError) as error:
        remedy = "apt-get install libusb-1.0-0, install librealsense's udev rules and plug the camera in again"
        return Finding("cameras", "pyrealsense2", False, f"cannot list devices: {error}", remedy)
    told = [f"serial {serial}, {_calibrated(serial)}" for serial in devices]
    if not told:
        remedy = "install librealsense's udev rules and plug the camera in again"
        return Finding("cameras", "pyrealsense2", False, "sees no device", remedy)
    return Finding("cameras", "pyrealsense2", True, "; ".join(told))


def _azure_library() -> Finding:
    """Whether the SDK that drives an Azure Kinect can be loaded."""
    try:
        importlib.import_module("actrec.capture.k4a_library").load("k4a")
    except ActrecError as error:
        return Finding("cameras", "libk4a", False, str(error), _AZURE)
    return Finding("cameras", "libk4a", True, "loads")


def _calibrated(serial: str) -> str:
    """Which calibration a camera has."""
    try:
        files = camera_files.load(serial)
    except ActrecError as error:
        return str(error)
    has = [name for name in ("colour", "depth", "mount") if getattr(files, name) is not None]
    return f"own calibration of {', '.join(has)}" if has else "the factory's calibration"


def accelerators() -> Iterator[Finding]:
    """NVIDIA GPUs and Jetsons. To have none is no gap: everything runs on the processor, slower."""
    model = _read(DEVICE_TREE_MODEL).rstrip("\x00")
    if JETSON_RELEASE.is_file():
        release = _read(JETSON_RELEASE).splitlines()[0].lstrip("# ")
        yield Finding("accelerator", "Jetson", True, f"{model or 'unknown model'}, {release}")
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("accelerator", "GPU", True, "no NVIDIA GPU; networks run on the processor")
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S)
    except (subprocess.SubprocessError, OSError) as error:
        yield Finding(
            "accelerator", "GPU", False, f"nvidia-smi failed: {error}", "reinstall the NVIDIA driver, then reboot"
        )
        return
    for line in done.stdout.strip().splitlines():
        yield Finding("accelerator", "GPU", True, line.strip())


def _read(path: Path) -> str:
    """The text of a kernel file, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
