"""`actrec doctor`: checks the installation, and names a remedy for each fault.

What `actrec doctor` looks at: software, hardware, model packages, image transport.

One line of a diagnosis.

Cameras and accelerators, as the kernel shows them.

Model packages: which are found, and whether they are whole.

Libraries: which are installed, in which version, and what they miss.

Image transport between processes: measured for real, with the settings that ship and with Fast DDS as it comes.
"""

import argparse
import ctypes
import dataclasses
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from actrec.inference import zoo
from actrec.utils import calibration_files
from actrec.utils.errors import ActrecError

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        area: "software", "models", "cameras", "accelerator" or "transport".
        name: What was checked.
        ok: Whether it is as it should be.
        value: What was found, one line.
        remedy: How to mend it if it is not ok, else "".
        required: Whether the graph cannot run while it is not ok.
    """

    area: str
    name: str
    ok: bool
    value: str
    remedy: str = ""
    required: bool = False

    @property
    def state(self) -> str:
        """Either "ok", "gap" (optional or degraded) or "fault" (the graph cannot run)."""
        if self.ok:
            return "ok"
        return "fault" if self.required else "gap"


USB = Path("/sys/bus/usb/devices")

JETSON_RELEASE = Path("/etc/nv_tegra_release")

DEVICE_TREE_MODEL = Path("/proc/device-tree/model")

QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Maker:
    """A camera maker: how its devices are recognized and what drives them.

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


def hardware_findings() -> Iterator[Finding]:
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
            remedy = "use a USB 3 port and cable: color and depth together need more than USB 2 carries"
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
        realsense = importlib.import_module("actrec.cameras.realsense.camera")
        devices = importlib.import_module("actrec.cameras.realsense.device").connected(realsense.open_context())
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
        importlib.import_module("actrec.cameras.azure_kinect.library").load("k4a")
    except ActrecError as error:
        return Finding("cameras", "libk4a", False, str(error), _AZURE)
    return Finding("cameras", "libk4a", True, "loads")


def _calibrated(serial: str) -> str:
    """Which calibration a camera has."""
    try:
        files = calibration_files.load(serial)
    except ActrecError as error:
        return str(error)
    has = [name for name in ("color", "depth", "mount") if getattr(files, name) is not None]
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
    """Return the text of a kernel file, empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def models_findings() -> Iterator[Finding]:
    """Yield one line per package found, and a fault if none is usable."""
    entries = zoo.list_packages()
    for entry in entries:
        if entry.package is None:
            yield Finding("models", entry.name, False, entry.problem, f"install it again, or remove {entry.path}")
        else:
            yield Finding("models", entry.name, True, f"{len(entry.package.labels)} labels, at {entry.path}")
    if not any(entry.package for entry in entries):
        remedy = f"set {zoo.VARIABLE} to a folder of packages, or train one: actrec train --help"
        yield Finding("models", "model package", False, "no usable one found", remedy, required=True)


AREA = "software"

OLDEST_PYTHON = (3, 10)

LIVE = "pip install 'actrec[live]', or: make venv"

TRAIN = "only for training: pip install 'actrec[train]', or: make venv EXTRAS='live train'"

LINKED = "install the libraries that it links (scripts/install_system.sh), or reinstall it"

OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)

REQUIRED = {"numpy": LIVE, "cv2": LIVE, "numba": LIVE, "mediapipe": LIVE, "onnxruntime": LIVE, "rosbags": LIVE}
"""Top-level modules that the live graph cannot do without."""

OPTIONAL = {
    "av": "only for replaying video: pip install 'actrec[live]'",
    "torch": TRAIN,
    "lightning": TRAIN,
    "onnx": TRAIN,
}

NVIDIA = {
    "cupy": "pip install 'cupy-cuda12x<14'; of CUDA 13: cupy-cuda13x",
    "tensorrt": "part of JetPack on a Jetson, elsewhere: pip install tensorrt",
}
"""What makes use of an NVIDIA GPU; without one nothing is missing."""

CUDA = {"pycuda.driver": "pycuda", "cuda.bindings.runtime": "cuda-python", "cuda.cudart": "cuda-python"}
"""Modules of which TensorRT's engines need one (`actrec.inference.tensorrt.cuda`), to their distributions."""

DISTRIBUTIONS = {"cv2": OPENCV_WHEELS, "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy")}
"""The distributions that provide a module of another name."""

TYPE_SUPPORT = """
import rclpy
from actrec_msgs.msg import ActionLabel
from actrec_msgs.srv import LoadModel
ActionLabel.__class__.__import_type_support__()
LoadModel.__class__.__import_type_support__()
"""


def software_findings() -> Iterator[Finding]:
    """Every check of this module."""
    yield python()
    yield ros()
    yield messages()
    yield opencv_clash()
    libraries = {**REQUIRED, **OPTIONAL, **(NVIDIA if _cuda_driver() else {})}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda name: library(name, libraries[name], required=name in REQUIRED), libraries)
    yield from (listed := list(found))
    loading = {finding.name for finding in listed if finding.ok}
    if "tensorrt" in loading:
        yield cuda_library()
    if "onnxruntime" in loading:
        yield onnxruntime_providers()


def python() -> Finding:
    """Return the interpreter."""
    value = f"{platform.python_version()} at {sys.executable}, {platform.machine()}"
    remedy = "actrec needs Python 3.10 or newer"
    return Finding(AREA, "python", sys.version_info[:2] >= OLDEST_PYTHON, value, remedy, required=True)


def ros() -> Finding:
    """Where rclpy comes from: a sourced distribution or wheels."""
    if not _installed("rclpy"):
        remedy = "source a ROS 2 distribution (. /opt/ros/jazzy/setup.bash), or: make venv build && . scripts/env.sh"
        return Finding(AREA, "ROS 2", False, "rclpy is not importable", remedy, required=True)
    wheel = _version("ros-rclpy")
    origin = (
        f"rclpy {wheel} from wheels" if wheel else f"distribution {os.environ.get('ROS_DISTRO', 'of unknown name')}"
    )
    middleware = os.environ.get("RMW_IMPLEMENTATION", "the default middleware")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    return Finding(AREA, "ROS 2", True, f"{origin}, {middleware}, domain {domain}", required=True)


def messages() -> Finding:
    """Whether actrec_msgs is built for this Python and its libraries load."""
    remedy = "make build && . scripts/env.sh, or: cd ros2_ws && colcon build && . install/setup.bash"
    if not _installed("actrec_msgs"):
        return Finding(AREA, "actrec_msgs", False, "not built, or not sourced", remedy, required=True)
    done = subprocess.run([sys.executable, "-c", TYPE_SUPPORT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(AREA, "actrec_msgs", False, f"does not load: {last}", remedy, required=True)
    return Finding(AREA, "actrec_msgs", True, "built, loads", required=True)


def opencv_clash() -> Finding:
    """Two OpenCV wheels overwrite each other's cv2 folder."""
    present = [name for name in OPENCV_WHEELS if _version(name)]
    remedy = f"pip uninstall -y {' '.join(present)} && pip install opencv-contrib-python==4.11.0.86"
    value = " and ".join(present) if len(present) > 1 else "one OpenCV"
    return Finding(AREA, "OpenCV wheels", len(present) <= 1, value, remedy, required=True)


def library(module: str, remedy: str, required: bool) -> Finding:
    """Check that `module` is installed, and loads unless only training or replay needs it; report its version."""
    if not _installed(module):
        return Finding(AREA, module, False, "not installed", remedy, required)
    if module not in OPTIONAL and (problem := _not_loading(module)):
        return Finding(AREA, module, False, f"does not load: {problem}", f"{LINKED}; {remedy}", required)
    versions = [_version(name) for name in DISTRIBUTIONS.get(module, (module,))]
    return Finding(AREA, module, True, next((version for version in versions if version), "installed"), "", required)


def cuda_library() -> Finding:
    """Whether TensorRT's engines get the GPU's memory: through the first of `CUDA` that loads."""
    problems = []
    for module, name in CUDA.items():
        problem = _not_loading(module)
        if not problem:
            return Finding(AREA, "CUDA in Python", True, name)
        if not problem.startswith("ModuleNotFoundError"):
            problems.append(f"; {name} does not load: {problem}")
    value = f"neither pycuda nor cuda-python{''.join(problems)}"
    remedy = "TensorRT needs one: pip install cuda-python; on a Jetson as docs/jetson.md says"
    return Finding(AREA, "CUDA in Python", False, value, remedy)


def onnxruntime_providers() -> Finding:
    """Return what ONNX Runtime can run on."""
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    accelerated = {"CUDA", "Tensorrt"} & set(providers)
    remedy = "an NVIDIA GPU is here but ONNX Runtime cannot use it: pip install onnxruntime-gpu"
    wanted = _cuda_driver() and not JETSON_RELEASE.is_file()  # no such wheel for a Jetson, where TensorRT is used
    return Finding(AREA, "onnxruntime on", bool(accelerated) or not wanted, ", ".join(providers), remedy)


def _not_loading(module: str) -> str:
    """Return why an import fails, empty if it does not; in a process of its own, since some imports end the process."""
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"it ends Python with signal {-done.returncode}, as a build for another processor does"
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def _cuda_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


TRANSPORT = "transport"

ENOUGH, TOO_FEW = 0.9, 0.5
"""Share of images below which the transport is a gap, and below which the graph cannot work."""

RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")

SEND_BUFFER = Path("/proc/sys/net/core/wmem_max")

BUFFER_BYTES = 2 * 1024 * 1024
"""An image of 640×480 in one datagram burst must fit, with room for depth beside it."""

Measure = Callable[..., dict[str, float]]


def transport_findings(measure: Measure, seconds: float = 2.0) -> Iterator[Finding]:
    """Yield the socket buffers and two measurements.

    Args:
        measure: `actrec_nodes.bringup.transport_check.measure`, handed in because the core does not import ROS.
        seconds: How long each measurement publishes.
    """
    yield from socket_buffers()
    yield _measured(
        "images, actrec's profile",
        lambda: measure(seconds, with_profile=True),
        "unset your own Fast DDS settings (FASTRTPS_DEFAULT_PROFILES_FILE, FASTDDS_BUILTIN_TRANSPORTS), and free "
        "/dev/shm; or run everything in one process on fewer nodes",
        required=True,
    )
    yield _measured(
        "images, default profile",
        lambda: measure(seconds, with_profile=False),
        "programs other than actrec's lose these images: start them with "
        "FASTRTPS_DEFAULT_PROFILES_FILE=<share of actrec>/config/fastdds.xml",
        required=False,
    )


def _measured(name: str, measure: Callable[[], dict[str, float]], remedy: str, required: bool) -> Finding:
    try:
        figures = measure()
    except ActrecError as error:
        return Finding(TRANSPORT, name, False, str(error), remedy, required)
    value = f"{figures['share']:.0%} of {figures['sent']:.0f} images 640×480 at 30 Hz arrived"
    if figures["arrived"]:
        value += f", median {figures['median_ms']:.1f} ms, p95 {figures['p95_ms']:.1f} ms"
    return Finding(TRANSPORT, name, figures["share"] >= ENOUGH, value, remedy, required and figures["share"] < TOO_FEW)


def socket_buffers(receive: Path = RECEIVE_BUFFER, send: Path = SEND_BUFFER) -> Iterator[Finding]:
    """Yield the kernel's limits on socket buffers, which images to other machines need."""
    for path, key in ((receive, "net.core.rmem_max"), (send, "net.core.wmem_max")):
        if path.is_file():
            size = int(path.read_text(encoding="ascii"))
            remedy = f"for images between machines: sudo sysctl -w {key}={BUFFER_BYTES * 4}"
            yield Finding(TRANSPORT, key, size >= BUFFER_BYTES, f"{size / 1024:.0f} KiB", remedy)


MARKS = {"ok": "ok", "gap": "gap", "fault": "FAULT"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--no-transport", action="store_true", help="skip the measurement of the image transport (8 s)")
    parser.epilog = (
        "Exit status 0 if the graph can run, 1 if not.\n\n"
        "Example:\n  actrec doctor\n  actrec doctor --no-transport --json | jq '.findings[] | select(.state != \"ok\")'"
    )


def run(args: argparse.Namespace) -> int:
    """Print every finding; return 1 if one of them keeps the graph from running."""
    found: list[Finding] = []
    for finding in findings(with_transport=not args.no_transport):
        found.append(finding)
        if not args.json:
            print(_line(finding, first_of_area=len(found) == 1 or found[-2].area != finding.area), flush=True)
    faults = [finding for finding in found if finding.state == "fault"]
    if args.json:
        rows = [{**dataclasses.asdict(finding), "state": finding.state} for finding in found]
        print(json.dumps({"can_run": not faults, "findings": rows}, indent=2))
    else:
        print(f"\n{_verdict(found, faults)}")
    return 1 if faults else 0


def findings(with_transport: bool) -> Iterator[Finding]:
    """Every check, in the order in which one would mend things."""
    yield from software_findings()
    yield from models_findings()
    yield from hardware_findings()
    if not with_transport:
        return
    if importlib.util.find_spec("rclpy") is None or importlib.util.find_spec("actrec_nodes") is None:
        yield Finding("transport", "images", False, "not measured: needs ROS 2", "mend ROS 2 first", required=True)
        return
    yield from transport_findings(importlib.import_module("actrec_nodes.bringup.transport_check").measure)


def _line(finding: Finding, first_of_area: bool) -> str:
    heading = f"{finding.area}\n" if first_of_area else ""
    remedy = "" if finding.ok else f"\n{'':34}→ {finding.remedy}"
    return f"{heading}  {MARKS[finding.state]:<5}  {finding.name:<24} {finding.value}{remedy}"


def _verdict(found: list[Finding], faults: list[Finding]) -> str:
    if faults:
        return f"The graph cannot run: {', '.join(finding.name for finding in faults)}."
    gaps = sum(finding.state == "gap" for finding in found)
    return f"The graph can run. {gaps} gaps are optional." if gaps else "The graph can run."
