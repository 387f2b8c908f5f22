"""`actrec doctor`: check software, model packages, hardware and image transport, with a remedy for each fault."""

import argparse
import contextlib
import ctypes
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cameras.mounting import open_mounted
from actrec.cli import LIVE, add_driver, driver_options
from actrec.features import rates
from actrec.features.specs import WindowSpec
from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import calibration_files, folders
from actrec.utils.errors import ActrecError, ConfigError, EndOfStream

EPILOG = """\
Exit status 0 if the graph can run, or, installed by pip without ROS, `actrec label`; 1 if not.

Example:
  actrec doctor
  actrec doctor --driver realsense --model deepacts_graph_nucla    # stand in view of the camera
  actrec doctor --no-transport --json | jq '.findings[] | select(.state != "ok")'
"""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        area: "software", "folders", "models", "cameras", "frames", "accelerator" or "transport".
        name: Checked item.
        ok: Whether the item works.
        value: Observed state in one line.
        remedy: How to repair an item that is not ok.
        required: Whether the graph needs the item to run.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--no-transport", action="store_true", help="skip the measurement of the image transport (8 s)")
    add_driver(parser, "also check the rate and the depth unit of this camera or recording, with a person in view")
    parser.add_argument("--model", help="model package that the camera's frame rate must suit")


def run(args: argparse.Namespace) -> int:
    """Print every finding; return 1 if one of them keeps the graph from running."""
    found: list[Finding] = []
    checks = findings(with_transport=not args.no_transport)
    options = driver_options(args)
    if args.model and not args.driver:
        raise ConfigError("--model is compared with the rate of a camera: give its --driver, too")
    if args.driver:
        package = zoo.find(args.model) if args.model else None
        checks = itertools.chain(checks, check_frames(args.driver, options, package))
    for finding in checks:
        if not args.json:
            if not found or found[-1].area != finding.area:
                print(finding.area)
            mark = "FAULT" if finding.state == "fault" else finding.state
            remedy = "" if finding.ok else f"\n{'':34}→ {finding.remedy}"
            print(f"  {mark:<5}  {finding.name:<24} {finding.value}{remedy}", flush=True)
        found.append(finding)
    faults = [finding.name for finding in found if finding.state == "fault"]
    gaps = sum(finding.state == "gap" for finding in found)
    if args.json:
        rows = [{**dataclasses.asdict(finding), "state": finding.state} for finding in found]
        print(json.dumps({"can_run": not faults and not has_no_graph(), "findings": rows}, indent=2))
    elif faults:
        print(f"\nThe graph cannot run: {', '.join(faults)}.")
    else:
        works = "actrec label can run; the graph needs ROS 2." if has_no_graph() else "The graph can run."
        print(f"\n{works}" + (f" {gaps} gaps are optional." if gaps else ""))
    return 1 if faults else 0


def findings(with_transport: bool) -> Iterator[Finding]:
    """Run every check, in the order in which a user would repair things."""
    yield from check_software()
    yield from check_folders()
    yield from check_models()
    yield check_perception()
    yield from check_cameras()
    yield from check_accelerators()
    if with_transport and _is_installed("rclpy") and _is_installed("actrec_nodes"):
        yield from check_transport(importlib.import_module("actrec_nodes.bringup.transport").measure)
    elif with_transport:
        yield Finding("transport", "images", False, "not measured: needs ROS 2", "repair ROS 2 first")


# -- software ----------------------------------------------------------------------------------------------------------

TRAIN = "only for training: pip install 'actrec[train]', or: make venv EXTRAS='live train'"
REQUIRED = dict.fromkeys(("numpy", "cv2", "numba", "onnxruntime", "rosbags", "scipy"), LIVE)
"""Top-level modules that the live graph needs, with the remedy."""
OPTIONAL = {"av": LIVE, "torch": TRAIN, "lightning": TRAIN, "onnx": TRAIN}
NVIDIA = {
    "cupy": "pip install 'cupy-cuda12x<14'; for CUDA 13: cupy-cuda13x",
    "tensorrt": "part of JetPack on a Jetson; with an RTX card: pip install 'actrec[rtx]'; else: pip install tensorrt",
    "tensorrt_rtx_bindings": "pip install 'actrec[rtx]'",
}
"""Modules that use an NVIDIA GPU; checked only if there is one."""
TENSORRT = ("tensorrt", "tensorrt_rtx_bindings")  # one of them is enough

OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
CUPY, RTX = ("cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy"), ("tensorrt-rtx-cu13-bindings",)
DISTRIBUTIONS = {"cv2": OPENCV_WHEELS, "cupy": CUPY, "tensorrt_rtx_bindings": RTX}
"""Distributions of the modules whose distribution has another name."""
WITHOUT_ROS = ("ROS 2", "actrec_msgs", "rosbags")  # optional for an installation that has no graph
CUDA_BINDINGS = {"pycuda.driver": "pycuda", "cuda.bindings.runtime": "cuda-python", "cuda.cudart": "cuda-python"}
"""Modules to distributions; the TensorRT backend needs one of them."""

LOAD_TYPE_SUPPORT = """
import rclpy
from actrec_msgs.msg import ActionEvent
from actrec_msgs.srv import LoadModel
for kind in (ActionEvent, LoadModel): kind.__class__.__import_type_support__()
"""
"""Loads the newest message, which an older build of actrec_msgs lacks."""


def check_software() -> Iterator[Finding]:
    """Check Python, ROS 2, the messages and the libraries."""
    python = f"{platform.python_version()} at {sys.executable}, {platform.machine()}"
    yield _software("python", sys.version_info >= (3, 10), python, "install Python 3.10 or newer")
    yield check_ros()
    yield check_messages()
    yield check_opencv_wheels()
    libraries = {**REQUIRED, **OPTIONAL, **(NVIDIA if _has_cuda_driver() else {})}
    libraries.pop(next((name for name in reversed(TENSORRT) if not _is_installed(name)), ""), None)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(lambda name: check_library(name, libraries[name], name in REQUIRED), libraries))
    yield from found
    loading = {finding.name for finding in found if finding.ok}
    if loading & set(TENSORRT):
        yield check_cuda_bindings()
    if "onnxruntime" in loading:
        yield check_onnxruntime()


def has_no_graph() -> bool:
    """Return whether actrec is installed by pip without ROS, which is no fault: no clone can have the graph."""
    return not _is_installed("rclpy") and not folders.installed("package.xml")[-1].is_file()


def check_ros() -> Finding:
    """Check that rclpy is installed, from a sourced distribution or from wheels."""
    if not _is_installed("rclpy"):
        remedy = "source a ROS 2 distribution (. /opt/ros/jazzy/setup.bash), or: make venv build && . scripts/env.sh"
        return _software("ROS 2", False, "rclpy is not importable", remedy)
    wheel = _version("ros-rclpy")
    origin = f"rclpy {wheel} from wheels" if wheel else f"distribution {os.environ.get('ROS_DISTRO', '(unknown)')}"
    middleware = os.environ.get("RMW_IMPLEMENTATION", "the default middleware")
    return _software("ROS 2", True, f"{origin}, {middleware}, domain {os.environ.get('ROS_DOMAIN_ID', '0')}")


def check_messages() -> Finding:
    """Check that actrec_msgs is built for this Python and that its libraries load."""
    remedy = "make build && . scripts/env.sh, or: cd ros2_ws && colcon build && . install/setup.bash"
    if not _is_installed("actrec_msgs"):
        return _software("actrec_msgs", False, "not built, or not sourced", remedy)
    problem = _failure_of(LOAD_TYPE_SUPPORT)
    return _software("actrec_msgs", not problem, f"does not load: {problem}" if problem else "built, loads", remedy)


def check_opencv_wheels() -> Finding:
    """Check that only one OpenCV wheel is installed: two overwrite each other's cv2 folder."""
    present = [name for name in OPENCV_WHEELS if _version(name)]
    remedy = f"pip uninstall -y {' '.join(present)} && pip install opencv-contrib-python==4.11.0.86"
    value = " and ".join(present) if len(present) > 1 else "one OpenCV"
    return _software("OpenCV wheels", len(present) <= 1, value, remedy)


def check_library(module: str, remedy: str, required: bool) -> Finding:
    """Check that `module` is installed and, unless it is in `OPTIONAL`, that it loads."""
    if not _is_installed(module):
        return _software(module, False, "not installed", remedy, required)
    if module not in OPTIONAL and (problem := _failure_of(f"import {module}")):
        remedy = f"install the libraries that it links (scripts/install_system.sh), or reinstall it; {remedy}"
        return _software(module, False, f"does not load: {problem}", remedy, required)
    versions = [_version(name) for name in DISTRIBUTIONS.get(module, (module,))]
    return _software(module, True, next(filter(None, versions), "installed"), required=required)


def check_cuda_bindings() -> Finding:
    """Check that one of `CUDA_BINDINGS` loads; TensorRT engines allocate GPU memory through the first that does."""
    value = "neither pycuda nor cuda-python"
    for module, name in CUDA_BINDINGS.items():
        problem = _failure_of(f"import {module}")
        if not problem:
            return _software("CUDA in Python", True, name, required=False)
        if not problem.startswith("ModuleNotFoundError"):
            value += f"; {name} does not load: {problem}"
    remedy = "TensorRT needs one: pip install cuda-python; on a Jetson see docs/jetson.md"
    return _software("CUDA in Python", False, value, remedy, required=False)


def check_onnxruntime() -> Finding:
    """Check that ONNX Runtime uses an NVIDIA GPU if there is one; a Jetson uses TensorRT and has no such wheel."""
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    ok = bool({"CUDA", "Tensorrt"} & set(providers)) or not _has_cuda_driver() or JETSON_RELEASE.is_file()
    remedy = "ONNX Runtime cannot use the NVIDIA GPU of this machine: pip install onnxruntime-gpu"
    return _software("onnxruntime on", ok, ", ".join(providers), remedy, required=False)


def _software(name: str, ok: bool, value: str, remedy: str = "", required: bool = True) -> Finding:
    if name in WITHOUT_ROS and has_no_graph():
        remedy, required = f"only for bags, and in a clone for the graph: {remedy}", False
    return Finding("software", name, ok, value, "" if ok else remedy, required)


def _failure_of(code: str) -> str:
    """Return the error of Python code, "" if it runs; in a child process, since some imports abort the process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"it ends Python with signal {-done.returncode}, as a build for another processor does"
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def _has_cuda_driver() -> bool:
    with contextlib.suppress(OSError):
        return bool(ctypes.CDLL("libcuda.so.1"))
    return False


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(distribution: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return ""


# -- folders -----------------------------------------------------------------------------------------------------------


def check_folders() -> Iterator[Finding]:
    """Check the folders that actrec and ROS write to by default; logs and caches go to temporary folders instead."""
    where, cause = folders.ros_logs()
    remedy = "set ROS_LOG_DIR or ROS_HOME to a folder that can be written, or free space"
    yield _folder("ROS logs", where, cause, remedy)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    yield _folder("caches", f"{home}/actrec", remedy="set XDG_CACHE_HOME, and ACTREC_ENGINES for TensorRT engines")
    own = str(calibration_files.search_folders()[0])
    yield _folder("camera calibrations", own, remedy="set ACTREC_CAMERAS or XDG_CONFIG_HOME")


def _folder(name: str, where: str, cause: str | None = None, remedy: str = "") -> Finding:
    if cause is None:
        try:
            cause = folders.problem(folders.expanded(where))
        except ActrecError:
            cause = "there is no home folder"
    return Finding("folders", name, not cause, f"{where} cannot be written: {cause}" if cause else where, remedy)


# -- model packages ----------------------------------------------------------------------------------------------------


def check_models() -> Iterator[Finding]:
    """Check each model package; none usable is a fault."""
    entries = zoo.list_packages()
    for entry in entries:
        if entry.package is None:
            yield Finding("models", entry.name, False, entry.problem, f"install it again, or remove {entry.path}")
        else:
            yield Finding("models", entry.name, True, f"{len(entry.package.labels)} labels, at {entry.path}")
    if not any(entry.package for entry in entries):
        remedy = f"set {zoo.VARIABLE} to a folder of packages, or train one: actrec train --help"
        yield Finding("models", "model package", False, "no usable one found", remedy, required=True)


def check_perception() -> Finding:
    """Check the files of the networks of bodies, hands and faces, and the backends that run them by default."""
    name, chosen = "networks of perception", dict[str, list[str]]()
    try:
        networks = importlib.import_module("actrec.perception.networks")
        for file in networks.files().values():
            file.read()
            chosen.setdefault(networks.resolve(file, networks.NetworkConfig()), []).append(file.name)
    except ActrecError as error:
        value, _, remedy = str(error).rpartition(": ")
        return Finding("models", name, False, value, remedy, required=True)
    shares = [f"{', '.join(names) if len(chosen) > 1 else len(names)} on {where}" for where, names in chosen.items()]
    missing = "onnxruntime" in chosen and any(map(_is_installed, TENSORRT)) and _has_cuda_driver()
    value = "; ".join(shares) + (": engines are not built" if missing else "")
    return Finding("models", name, not missing, value, "actrec build-engine perception")


# -- hardware ----------------------------------------------------------------------------------------------------------

USB = Path("/sys/bus/usb/devices")
JETSON_RELEASE = Path("/etc/nv_tegra_release")

_AZURE = "install the Azure Kinect SDK (libk4a) or Orbbec's K4A wrapper, then: pip install --no-deps pykinect-azure"
_ORBBEC = f"{_AZURE}; or start Orbbec's ROS driver: vendor:=orbbec_camera"
MAKERS = {
    "8086": ("Intel RealSense", "RealSense", "pyrealsense2", "pip install pyrealsense2"),
    "045e": ("Azure Kinect", "Kinect", "pykinect_azure", _AZURE),
    "2bc5": ("Orbbec", "", "pykinect_azure", _ORBBEC),
}
"""USB vendor id to camera family, word in the names of its products, driver module and its remedy."""


def check_cameras(usb: Path = USB) -> Iterator[Finding]:
    """Check each RGB-D camera on the USB bus: its link and its driver library."""
    libraries, devices = set(), sorted(usb.glob("*"))
    fast = {_read(each / "idVendor") for each in devices if _read(each / "speed") in ("5000", "10000", "20000")}
    for device in devices:
        maker, product = MAKERS.get(vendor := _read(device / "idVendor")), _read(device / "product")
        if maker is None or maker[1] not in product or ("Microphone" in product and vendor in fast):  # of its camera
            continue
        name, _, library, remedy = maker
        libraries.add(library)
        mbps = float(speed) if (speed := _read(device / "speed")).replace(".", "").isdecimal() else 0.0
        installed = _is_installed(library)
        missing = "" if installed else f", driver library {library} is not installed"
        value = f"{product or 'unnamed device'} on USB at {mbps:g} Mbit/s{missing}"
        yield Finding("cameras", name, installed, value, remedy)
        if 0 < mbps < 5000:
            remedy = "use a USB 3 port and cable: color with depth exceeds the bandwidth of USB 2"
            yield Finding("cameras", f"{name} link", False, f"{mbps:g} Mbit/s", remedy)
    if "pyrealsense2" in libraries and _is_installed("pyrealsense2"):
        yield _check_realsense()
    if "pykinect_azure" in libraries:
        try:
            importlib.import_module("actrec.cameras.azure_kinect.sdk").load("k4a")
            yield Finding("cameras", "libk4a", True, "loads")
        except ActrecError as error:
            yield Finding("cameras", "libk4a", False, str(error), _AZURE)
    if not libraries:
        yield Finding("cameras", "RGB-D camera", False, "none on USB", "connect one, or: actrec run --driver simulated")


def _check_realsense() -> Finding:
    remedy = "install librealsense's udev rules and plug the camera in again"
    try:
        realsense = importlib.import_module("actrec.cameras.realsense.device")
        devices = realsense.connected(realsense.open_context())
    except (ImportError, RuntimeError) as error:
        remedy = f"apt-get install libusb-1.0-0, {remedy}"
        return Finding("cameras", "pyrealsense2", False, f"cannot list devices: {error}", remedy)
    described = []
    for serial in devices:
        try:
            files = calibration_files.load(serial)
            parts = ", ".join(name for name in ("color", "depth", "mount") if getattr(files, name) is not None)
            calibration = f"own calibration of {parts}" if parts else "factory calibration"
        except ActrecError as error:
            calibration = str(error)
        described.append(f"serial {serial}, {calibration}")
    return Finding("cameras", "pyrealsense2", bool(devices), "; ".join(described) or "finds no device", remedy)


CHECKED_FRAMES, CHECKED_PERIOD_S, MAX_FRAMES = 30, 0.1, 1000
"""Frames in which people are searched, the least time from one to the next, and the largest number of read frames."""


def check_frames(driver: str, options: dict[str, Any], package: ModelPackage | None = None) -> Iterator[Finding]:
    """Check the rate of a camera or recording, for a model package, and the unit of its depth by the size of people."""
    stamps: list[int] = []
    kept: list[RgbdFrame] = []
    try:
        with open_mounted(driver, options) as read, contextlib.suppress(EndOfStream):
            while len(kept) < CHECKED_FRAMES and len(stamps) < MAX_FRAMES:
                frame = read(5.0)
                stamps.append(frame.stamp_ns)
                if not kept or frame.stamp_ns - kept[-1].stamp_ns >= CHECKED_PERIOD_S * NANOSECONDS:
                    kept.append(frame)
    except ActrecError as error:
        yield Finding("frames", driver, False, str(error), "correct --driver and --driver-option", required=True)
        return
    hz = rates.frame_rate(stamps)
    specs, window = (package.inputs, package.window) if package else ((), WindowSpec(1.0, 1))
    value, _, remedy = rates.describe_rate(specs, window, hz).partition("; ")
    if len(stamps) < 2:
        value, remedy = f"unknown, frames: {len(stamps)}", "use a longer recording, or repair the camera"
    yield Finding("frames", "rate", not value, value or f"{hz:.3g} Hz", remedy)
    kept = [frame for frame in kept if frame.color is not None and frame.depth is not None]
    if not kept:
        yield Finding("frames", "depth unit", False, "no color with depth", "use an RGB-D camera")
        return
    try:
        perception = importlib.import_module("actrec.perception.pipeline")
        with contextlib.closing(perception.BodyPerception()) as people:
            for frame in kept:
                people.process(frame)
    except (ActrecError, ImportError) as error:
        yield Finding("frames", "depth unit", False, f"not checked: {error}", "repair this library")
        return
    value, _, remedy = people.sizes.fault.partition("; ")
    if np.isnan(people.sizes.size):
        value, remedy = "unknown: a person is in view in too few frames", "stand in view of the camera, head to feet"
    yield Finding(
        "frames", "depth unit", not value, value or f"people are {people.sizes.size:.2f} of their size", remedy
    )


def check_accelerators() -> Iterator[Finding]:
    """Report the NVIDIA GPUs or the Jetson. None is not a gap: networks then run on the processor, slower."""
    if JETSON_RELEASE.is_file():
        model = _read(Path("/proc/device-tree/model")).rstrip("\x00") or "unknown model"
        release = _read(JETSON_RELEASE).splitlines()[0].lstrip("# ")
        yield Finding("accelerator", "Jetson", True, f"{model}, {release}")
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("accelerator", "GPU", True, "no NVIDIA GPU; networks run on the processor")
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10.0)
        yield from (Finding("accelerator", "GPU", True, line.strip()) for line in done.stdout.strip().splitlines())
    except (subprocess.SubprocessError, OSError) as error:
        yield Finding("accelerator", "GPU", False, f"nvidia-smi failed: {error}", "reinstall NVIDIA's driver, reboot")


def _read(path: Path) -> str:
    """Return the text of a kernel file, "" if there is none."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


# -- image transport ---------------------------------------------------------------------------------------------------

ENOUGH, TOO_FEW = 0.9, 0.5  # share of images below which the transport is a gap, and below which it is a fault
BUFFER_BYTES = 2 * 1024 * 1024  # one burst: a color image of 640×480 with its depth


def check_transport(measure: Callable[..., dict[str, float]], seconds: float = 2.0) -> Iterator[Finding]:
    """Check the socket buffers; measure the image transport with actrec's Fast DDS profile and without.

    `measure` is `actrec_nodes.bringup.transport.measure`, a parameter because the core does not import ROS.
    """
    yield from check_socket_buffers()
    remedies = {
        "images, actrec's profile": "unset your own Fast DDS settings (FASTRTPS_DEFAULT_PROFILES_FILE, FASTDDS_DEFAULT_"
        "PROFILES_FILE, FASTDDS_BUILTIN_TRANSPORTS), and free /dev/shm; or run all in one process with fewer nodes",
        "images, default profile": "programs other than actrec's lose these images: start them with FASTRTPS_DEFAULT_"
        "PROFILES_FILE (after Jazzy: FASTDDS_DEFAULT_PROFILES_FILE)=<share of actrec>/config/fastdds.xml",
    }
    for (name, remedy), with_profile in zip(remedies.items(), (True, False), strict=True):
        try:
            figures = measure(seconds, with_profile=with_profile)
        except ActrecError as error:
            yield Finding("transport", name, False, str(error), remedy, required=with_profile)
            continue
        value = f"{figures['share']:.0%} of {figures['sent']:.0f} images 640×480 at 30 Hz arrived"
        if figures["arrived"]:
            value += f", median {figures['median_ms']:.1f} ms, p95 {figures['p95_ms']:.1f} ms"
        required = with_profile and figures["share"] < TOO_FEW
        yield Finding("transport", name, figures["share"] >= ENOUGH, value, remedy, required)


def check_socket_buffers(kernel: Path = Path("/proc/sys/net/core")) -> Iterator[Finding]:
    """Check the kernel's limits on socket buffers, which images to other machines need."""
    for name in ("rmem_max", "wmem_max"):
        if text := _read(kernel / name):
            remedy = f"for images between machines: sudo sysctl -w net.core.{name}={BUFFER_BYTES * 4}"
            size = int(text)
            yield Finding("transport", f"net.core.{name}", size >= BUFFER_BYTES, f"{size / 1024:.0f} KiB", remedy)
