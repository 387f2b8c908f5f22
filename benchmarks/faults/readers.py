"""Every reader of files, each with a small valid file that it reads."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import zstd

from actrec import datasets
from actrec.datasets import (
    cad60,
    florence3d,
    kard,
    kinder_gator,
    msr_action3d,
    nucla,
    smarthome,
    sysu,
    utd_mhad,
    utkinect,
)
from actrec.datasets.ntu import dataset as ntu
from actrec.datasets.ntu import skeletons as ntu_skeletons
from actrec.inference import load, package
from actrec.inference.tensorrt.cache import EngineCache, EngineKey
from actrec.recordings import RecordingConfig, image_decoding, labels, open_recording
from actrec.recordings.image_folder import FolderWriter
from actrec.recordings.rosbag import bag_files
from actrec.recordings.rosbag.bag_writer import BagWriter, typestore_with
from actrec.recordings.skeleton_files import open_sequences
from actrec.recordings.video import VideoWriter
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec_calibration import hand_eye
from actrec_nodes.common import parameter_files
from benchmarks.faults import board_images, training_files
from tests import ntu_text
from tests.core.datasets import motion_files
from tests.core.datasets.motion_files import amc_text, asf_text, bvh_text
from tests.tiny_model import write_tiny

FRAMES, WIDTH, HEIGHT, FPS = 4, 64, 48, 15
LENS = Intrinsics(WIDTH, HEIGHT, 60.0, 60.0, 31.5, 23.5)
CONFIG = RecordingConfig(intrinsics="60,60,31.5,23.5")
COMPRESSED = "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        write: Writes a valid file, and what belongs to it, into an empty folder; returns the file to mutate.
        read: Reads the file completely.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]


@cache
def person() -> np.ndarray:
    """Return joints [FRAMES, 25, 3] m of a person in front of the camera."""
    return ntu_text.person(FRAMES) * [1, -1, 1]


@cache
def frames() -> list[RgbdFrame]:
    """Return small frames with color, depth and a body."""
    random, found = np.random.default_rng(0), []
    for k in range(FRAMES):
        color = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        depth = random.uniform(1, 4, (HEIGHT, WIDTH)).astype(np.float32)
        joints = person()[k].astype(np.float32)
        body = Body("body_1", "kinect_v2_25", joints, np.zeros((25, 2), np.float32), np.ones(25, np.float32))
        found.append(RgbdFrame(10**18 + k * 10**9 // FPS, color, depth, LENS, "camera", skeletons=[body]))
    return found


def play(path: Path) -> int:
    """Return the number of frames of a recording."""
    with open_recording(path, CONFIG) as recording:
        return sum(1 for _ in recording.frames())


def write_mcap(folder: Path) -> Path:
    """Write a bag of images, as `record_node` does."""
    with BagWriter(folder / "bag") as writer:
        for frame in frames():
            writer.write_frame(frame)
    return next((folder / "bag").glob("*.mcap"))


def write_packed(folder: Path) -> Path:
    """Write a bag whose file is compressed as a whole, as `ros2 bag record --compression-mode file` does."""
    file = write_mcap(folder)
    packed = file.with_name(f"{file.name}.zstd")
    packed.write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()
    return packed


def write_sqlite(folder: Path) -> Path:
    """Write a bag of compressed images in SQLite, as a vendor's driver and `ros2 bag record` do."""
    store: Any = typestore_with(COMPRESSED)
    time_of, header_of = (store.types[name] for name in ("builtin_interfaces/msg/Time", "std_msgs/msg/Header"))
    with Writer(folder / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        topic = "/camera/color/image_raw/compressed"
        connection = writer.add_connection(topic, COMPRESSED, typestore=store)
        for frame in frames():
            sec, nanosec = divmod(frame.stamp_ns, 10**9)
            header = header_of(stamp=time_of(sec=sec, nanosec=nanosec), frame_id="camera")
            data = cv2.imencode(".jpg", frame.color)[1]
            message = store.types[COMPRESSED](header=header, format="rgb8; jpeg compressed bgr8", data=data.ravel())
            writer.write(connection, frame.stamp_ns, store.serialize_cdr(message, COMPRESSED))
    return next((folder / "bag").glob("*.db3"))


def recover_bag(path: Path) -> object:
    """Recover a bag beside it."""
    out = path.parent.parent / "recovered"
    shutil.rmtree(out, ignore_errors=True)
    return bag_files.recover(path, out)


def write_video(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a video of this file name."""

    def write(folder: Path) -> Path:
        writer = VideoWriter(folder / name)
        for frame in frames():
            writer.write(frame.color, frame.stamp_ns)  # type: ignore[arg-type]
        writer.close()
        return folder / name

    return write


def write_images(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a folder of images and returns one of its files."""

    def write(folder: Path) -> Path:
        writer = FolderWriter(folder / "images", LENS, FPS)
        for frame in frames():
            writer.add(frame, {"body_1": "wave"})
        writer.close()
        return folder / "images" / name

    return write


def write_ntu(folder: Path) -> Path:
    """Write a skeleton file of NTU RGB+D."""
    return ntu_text.write(
        folder / "S001C001P001R001A001.skeleton", {72057594037931101: ntu_text.person(FRAMES)}, FRAMES
    )


def write_nucla(folder: Path) -> Path:
    """Write a skeleton file of N-UCLA."""
    path = folder / "a01_s01_e00_v01.json"
    joints = (person()[:, :20] * [1, -1, 1]).round(4).tolist()
    path.write_text(json.dumps({"file_name": path.stem, "skeletons": joints, "label": 1}))
    return path


def write_nucla_frames(part: str) -> Callable[[Path], Path]:
    """Return a function that writes a sequence of N-UCLA as frames and returns one of its files."""

    def write(folder: Path) -> Path:
        sequence = folder / "view_1" / "a01_s01_e00"
        sequence.mkdir(parents=True)
        stamps = [90467319 + 80 * k for k in range(FRAMES)]
        listed = "".join(f"{k} 0 {time}\n" for k, time in enumerate(stamps, 1))
        (sequence / "fileList.txt").write_text(listed)
        for k, (time, joints) in enumerate(zip(stamps, person()[:, :20], strict=True), 1):
            rows = "".join(f"{x:.6f},{y:.6f},{z:.6f},2\n" for x, y, z in joints)
            (sequence / f"frame_{k}_tc_{time}_skeletons.txt").write_text(f"1\n{rows}")
        return next(sequence.glob(part))

    return write


def write_csv(folder: Path) -> Path:
    """Write a capture of a Kinect v2."""
    rows = [
        ",".join([str(10**9 + 333_333 * k), *(f"{x:.4f},{y:.4f},{z:.4f},2" for x, y, z in joints)])
        for k, joints in enumerate(ntu_text.person(FRAMES))
    ]
    (folder / "capture.csv").write_text("\n".join(rows) + "\n")
    return folder / "capture.csv"


def write_bvh(folder: Path) -> Path:
    """Write motion capture as Bandai-Namco does."""
    from tests.core.recordings.test_motion_capture import BANDAI, standing

    (folder / "walk.bvh").write_text(bvh_text(standing(FRAMES), BANDAI))
    return folder / "walk.bvh"


def write_amc(folder: Path) -> Path:
    """Write motion capture as HDM05 does, with its skeleton."""
    (folder / "HDM_mm.asf").write_text(asf_text())
    (folder / "HDM_mm_01-01_01_120.amc").write_text(amc_text([{}] * FRAMES))
    return folder / "HDM_mm_01-01_01_120.amc"


def read_asf(path: Path) -> object:
    """Read the motion beside a skeleton, which is a file of its own."""
    return open_sequences(next(path.parent.glob("*.amc")))


def write_npz(folder: Path) -> Path:
    """Write a user's own skeletons with labels."""
    np.savez(
        folder / "own.npz", positions=person(), layout="kinect_v2_25", fps=15.0, labels=["wave"], body_ids=["anna"]
    )
    return folder / "own.npz"


def write_shrec17(name: str) -> Callable[[Path], Path]:
    """Return a function that writes two sequences of SHREC'17 with their lists and returns one of the files."""

    def write(folder: Path) -> Path:
        hand = "\n".join(" ".join(["0.1 0.2 0.5"] * 22) for _ in range(FRAMES))
        for essai, part in ((1, "train"), (2, "test")):
            (folder / f"{part}_gestures.txt").write_text(f"1 1 1 {essai} 1 1 {FRAMES}\n")
            sequence = folder / f"gesture_1/finger_1/subject_1/essai_{essai}"
            sequence.mkdir(parents=True)
            (sequence / "skeletons_world.txt").write_text(hand)
        return next(folder.rglob(name))

    return write


def read_nucla_frames(path: Path) -> object:
    """Read the sequence that has this file."""
    return nucla.read_nucla_frames(path.parent)


def read_shrec17(path: Path) -> object:
    """Read all clips of the dataset that has this file."""
    root = path.parent if path.parent.name != "essai_1" and path.parent.name != "essai_2" else path.parents[4]
    source = datasets.source("shrec17_14", root)
    return [source.read(entry) for entry in source.entries()]


def write_motion(name: str, joints: int) -> Callable[[Path], Path]:
    """Return a function that writes a take as the dataset of this name was published."""

    def write(folder: Path) -> Path:
        counts = {key: np.array([1]) for key in ("action", "subject", "trial", "order")}
        seconds = {"seconds": np.arange(FRAMES) / 15, "length": np.array([FRAMES]), "names": np.array(["", "Hop"])}
        return motion_files.WRITERS[name](folder, 0, {**counts, **seconds}, person()[:, :joints])

    return write


def write_text_of(name: str, function: str) -> Callable[[Path], Path]:
    """Return a function that writes the text that a function of the datasets' tests makes."""

    def write(folder: Path) -> Path:
        from tests.core.datasets import test_motion_sets

        (folder / name).write_text(getattr(test_motion_sets, function)())
        return folder / name

    return write


def write_smarthome(folder: Path) -> Path:
    """Write a skeleton file of Toyota Smarthome."""
    from tests.core.datasets import test_smarthome

    return Path(test_smarthome.write(folder))


def write_mat(name: str, key: str) -> Callable[[Path], Path]:
    """Return a function that writes joints [20, 3, FRAMES] m, y up, as MATLAB does."""

    def write(folder: Path) -> Path:
        from scipy.io import savemat

        joints = person()[:, :20] * [1, -1, 1]
        joints[:, 2] = joints[:, 0] + [0, 0.5, 0]  # in SYSU, the shoulders above the hips
        savemat(folder / name, {key: joints.transpose(1, 2, 0)})
        return folder / name

    return write


def write_folds(folder: Path) -> Path:
    """Write SYSU's list of the subjects that train in each fold."""
    from scipy.io import savemat

    rows = np.stack([np.random.default_rng(k).permutation(sysu.SUBJECTS)[:20] + 1 for k in range(sysu.FOLDS)])
    savemat(folder / "cross_subject_folds.mat", {"train": rows})
    return folder / "cross_subject_folds.mat"


def write_archive(folder: Path) -> Path:
    """Write a packed dataset."""
    counts = {key: np.array([1, 2]) for key in ("action", "subject", "trial")}
    joints, length = np.tile(person()[:, :20], (2, 1, 1)), np.array([FRAMES, FRAMES])
    np.savez(folder / "utd_mhad_skeletons.npz", xyz=joints, length=length, **counts)  # type: ignore[arg-type]
    return folder / "utd_mhad_skeletons.npz"


SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {"body": ((1, 3), (1, 3), (2, 3))}
CONTENT = b"engine" * 1000
ENGINE = EngineKey("tiny", "0" * 64, "fp16", SHAPES, {}, "tensorrt", "10.3", "sm_87", "12.6", "Orin")


def write_engine(suffix: str) -> Callable[[Path], Path]:
    """Return a function that writes a TensorRT engine and its note, and returns one of them."""

    def write(folder: Path) -> Path:
        return EngineCache(folder).store(ENGINE, CONTENT, {"difference": 0.0}).with_suffix(suffix)

    return write


def read_engine(path: Path) -> object:
    """Look for engines as a backend does; TensorRT never sees a damaged one."""
    cache = EngineCache(path.parent)
    found = cache.find(ENGINE)
    if found not in (None, CONTENT):
        raise AssertionError("a damaged engine is found")
    return found, cache.misfits(ENGINE), cache.difference(ENGINE), cache.holds("tiny", "tensorrt")


def write_calibration(part: str) -> Callable[[Path], Path]:
    """Return a function that writes the calibration files of a camera and returns one of them."""

    def write(folder: Path) -> Path:
        geometry = calibration_files.DepthGeometry(np.eye(4), 1.01, 0.002)
        mount = calibration_files.Mount("base", "camera", np.eye(4), False)
        paths = {name: folder / f"cam1_{name}.yaml" for name in ("color", "depth", "mount")}
        calibration_files.write_intrinsics(paths["color"], LENS, "cam1", note="a test")
        calibration_files.write_intrinsics(paths["depth"], LENS, "cam1", geometry)
        calibration_files.write_mount(paths["mount"], mount)
        return paths[part]

    return write


def write_parameters(folder: Path) -> Path:
    """Write a parameter file of ROS."""
    shutil.copy(Path(__file__).resolve().parents[2] / "config/demo.yaml", folder / "parameters.yaml")
    return folder / "parameters.yaml"


def write_labels(folder: Path) -> Path:
    """Write labels of recordings."""
    clips = [labels.LabeledClip(f"wave_{k}", "wave", 0.5 * k, 4.0, "anna", "body_1", "train") for k in range(5)]
    labels.write_labels(folder / "labels.csv", clips)
    return folder / "labels.csv"


def write_package(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a model package and returns one of its files."""

    def write(folder: Path) -> Path:
        return write_tiny(folder / "package").path / name

    return write


def write_bytes(name: str, make: Callable[[], bytes]) -> Callable[[Path], Path]:
    """Return a function that writes these bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(make())
        return folder / name

    return write


def encoded(suffix: str, depth: bool = False) -> bytes:
    """Return the first frame's color or depth image, encoded by OpenCV."""
    frame = frames()[0]
    image = image_decoding.depth_in_millimeters(frame.depth) if depth else frame.color  # type: ignore[arg-type]
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


def rvl() -> bytes:
    """Return a depth image as `compressed_depth_image_transport` encodes it in RVL."""
    from tests.core.recordings.test_bag_encodings import rvl_bytes

    return bytes(12) + rvl_bytes(image_decoding.depth_in_millimeters(frames()[0].depth))  # type: ignore[arg-type]


def read_color(path: Path) -> object:
    """Decode a compressed color image."""
    return image_decoding.decompress_color(path.read_bytes())


def read_depth(path: Path) -> object:
    """Decode a compressed depth image."""
    return image_decoding.decompress_depth("16UC1; compressedDepth png", bytes(12) + path.read_bytes())


def read_rvl(path: Path) -> object:
    """Decode a depth image in RVL."""
    return image_decoding.decompress_depth("16UC1; compressedDepth rvl", path.read_bytes())


NTU_LIST = "2 of the captured samples have missing or incomplete skeleton data.\n\n" + "".join(
    f"S001C00{camera}P001R001A001\n" for camera in (2, 3)
)
UTKINECT_LABELS = "s01_e01\nwalk: 10 14\nsitDown: 16 22 \ncarry: NaN NaN\ns02_e01\nclapHands: 1 2\n"

READERS: dict[str, Reader] = {
    "bag (mcap)": Reader(write_mcap, lambda path: play(path.parent)),
    "bag (mcap file)": Reader(write_mcap, play),
    "bag (packed)": Reader(write_packed, lambda path: play(path.parent)),
    "bag (sqlite3)": Reader(write_sqlite, play),
    "bag (recovered)": Reader(write_mcap, recover_bag),
    "bag (metadata)": Reader(lambda f: write_mcap(f).parent / "metadata.yaml", lambda path: play(path.parent)),
    "video (mp4)": Reader(write_video("video.mp4"), play),
    "video (avi)": Reader(write_video("video.avi"), play),
    "video (mkv)": Reader(write_video("video.mkv"), play),
    "image folder (color)": Reader(write_images("000001.png"), lambda path: play(path.parent)),
    "image folder (depth)": Reader(write_images("000001_depth.png"), lambda path: play(path.parent)),
    "image folder (intrinsics)": Reader(write_images("intrinsics.yaml"), lambda path: play(path.parent)),
    "color (jpeg)": Reader(write_bytes("a.jpg", lambda: encoded(".jpg")), read_color),
    "color (png)": Reader(write_bytes("a.png", lambda: encoded(".png")), read_color),
    "depth (png)": Reader(write_bytes("a.png", lambda: encoded(".png", depth=True)), read_depth),
    "depth (rvl)": Reader(write_bytes("a.rvl", rvl), read_rvl),
    "skeletons (ntu)": Reader(write_ntu, ntu_skeletons.read_ntu_skeleton),
    "skeletons (nucla json)": Reader(write_nucla, open_sequences),
    "skeletons (kinect csv)": Reader(write_csv, open_sequences),
    "skeletons (bvh)": Reader(write_bvh, open_sequences),
    "skeletons (amc)": Reader(write_amc, open_sequences),
    "skeletons (asf)": Reader(lambda folder: write_amc(folder).with_name("HDM_mm.asf"), read_asf),
    "skeletons (npz)": Reader(write_npz, open_sequences),
    "dataset (shrec17)": Reader(write_shrec17("skeletons_world.txt"), read_shrec17),
    "dataset (shrec17 list)": Reader(write_shrec17("train_gestures.txt"), read_shrec17),
    "dataset (utd_mhad)": Reader(write_mat("a1_s1_t1_skeleton.mat", "d_skel"), utd_mhad.read_utd_mhad_mat),
    "dataset (utd_mhad, packed)": Reader(write_archive, utd_mhad.read_utd_mhad_npz),
    "dataset (sysu)": Reader(write_mat("sklWorld.mat", "SW"), lambda path: sysu.read_sysu(path.parent, "clip")),
    "dataset (sysu folds)": Reader(write_folds, lambda path: sysu.read_folds(path, "cross_subject")),
    "dataset (ntu list)": Reader(write_bytes("list.txt", NTU_LIST.encode), ntu.read_list),
    "dataset (nucla frames)": Reader(write_nucla_frames("*_skeletons.txt"), read_nucla_frames),
    "dataset (nucla list of frames)": Reader(write_nucla_frames("fileList.txt"), read_nucla_frames),
    "dataset (cad60 labels)": Reader(
        lambda folder: write_motion("cad60", 15)(folder).with_name("activityLabel.txt"), cad60.read_labels
    ),
    "dataset (cad60)": Reader(write_motion("cad60", 15), cad60.read_cad60_txt),
    "dataset (kard)": Reader(write_motion("kard", 15), kard.read_kard_txt),
    "dataset (kinder_gator)": Reader(write_motion("kinder_gator", 20), kinder_gator.read_kinder_gator_csv),
    "dataset (smarthome)": Reader(write_smarthome, smarthome.read_smarthome),
    "dataset (florence3d)": Reader(write_text_of("all.txt", "florence_text"), florence3d.read_florence3d),
    "dataset (msr_action3d)": Reader(
        write_text_of("a20_s02_e03_skeleton3D.txt", "msr_text"), msr_action3d.read_msr_action3d
    ),
    "dataset (utkinect)": Reader(write_text_of("joints_s01_e01.txt", "utkinect_text"), utkinect.read_utkinect),
    "dataset (utkinect labels)": Reader(write_bytes("actionLabel.txt", UTKINECT_LABELS.encode), utkinect.read_labels),
    "calibration (color)": Reader(write_calibration("color"), lambda path: calibration_files.load("cam1", path.parent)),
    "calibration (depth)": Reader(write_calibration("depth"), lambda path: calibration_files.load("cam1", path.parent)),
    "calibration (mount)": Reader(write_calibration("mount"), lambda path: calibration_files.load("cam1", path.parent)),
    "board (images)": Reader(board_images.write_view("color/1.jpg"), board_images.read_lens_images),
    "board (depth)": Reader(board_images.write_view("depth/1.png"), board_images.read_views),
    "board (infrared)": Reader(board_images.write_view("ir/1.png"), board_images.read_views),
    "points": Reader(board_images.write_points, board_images.read_points),
    "robot poses": Reader(board_images.write_poses, hand_eye.read_robot_poses),
    "parameters": Reader(write_parameters, lambda path: parameter_files.check(str(path), ["/camera_node"])),
    "labels": Reader(write_labels, labels.read_labels),
    "package (description)": Reader(write_package("model.yaml"), lambda path: package.load(path.parent)),
    "package (network)": Reader(write_package("model.onnx"), lambda path: load(path.parent, "onnxruntime")),
    "engine": Reader(write_engine(".engine"), read_engine),
    "engine (note)": Reader(write_engine(".json"), read_engine),
    "recipe": Reader(training_files.write_recipe, training_files.read_recipe),
    "weights (safetensors)": Reader(training_files.write_weights("model.safetensors"), training_files.read_weights),
    "weights (torch)": Reader(training_files.write_weights("model.ckpt"), training_files.read_weights),
    "checkpoint": Reader(training_files.write_weights("last.ckpt"), training_files.read_checkpoint),
    "store (head)": Reader(training_files.write_store("*.json"), training_files.read_store),
    "store (index)": Reader(training_files.write_store("*.npz"), training_files.read_store),
    "store (clips)": Reader(training_files.write_store("shard*"), training_files.read_store),
}
"""Readers by the kind of their files."""
