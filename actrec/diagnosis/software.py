"""Libraries: what is installed, in which version, and what it lacks."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from actrec.diagnosis.finding import Finding
from actrec.diagnosis.hardware import JETSON_RELEASE

AREA = "software"
OLDEST_PYTHON = (3, 10)
LIVE = "pip install 'actrec[live]', or: make venv"
TRAIN = "only for training: pip install 'actrec[train]', or: make venv EXTRAS='live train'"
LINKED = "install what it links (scripts/install_system.sh), or it itself again"
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
"""Modules of which TensorRT's engines need one (`actrec.inference.cuda_memory`), to what they are installed as."""
DISTRIBUTIONS = {"cv2": OPENCV_WHEELS, "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy")}
"""The distributions that provide a module, where they are not named as it is."""
TYPE_SUPPORT = """
import rclpy
from actrec_msgs.msg import ActionLabel
from actrec_msgs.srv import LoadModel
ActionLabel.__class__.__import_type_support__()
LoadModel.__class__.__import_type_support__()
"""


def findings() -> Iterator[Finding]:
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
    """The interpreter."""
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
    """Whether `module` is installed and, of those that are not for training or replaying alone, loads; its version."""
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
    """What ONNX Runtime can run on."""
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    accelerated = {"CUDA", "Tensorrt"} & set(providers)
    remedy = "an NVIDIA GPU is here but ONNX Runtime cannot use it: pip install onnxruntime-gpu"
    wanted = _cuda_driver() and not JETSON_RELEASE.is_file()  # no such wheel for a Jetson, where TensorRT is used
    return Finding(AREA, "onnxruntime on", bool(accelerated) or not wanted, ", ".join(providers), remedy)


def _not_loading(module: str) -> str:
    """Why an import fails, in a process of its own, as some end the one they are in; empty where it does not."""
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
