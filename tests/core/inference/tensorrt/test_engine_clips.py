"""Recorded hands for the comparison of a new engine, from bags and from SHREC'17 files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Writer

from actrec.datasets.shrec17 import read_shrec17_npz
from actrec.features.specs import InputSpec
from actrec.inference import zoo
from actrec.inference.tensorrt.backend import recorded_windows
from actrec.perception.recorded_joints import HANDS, read_hands
from actrec.recordings.rosbag.bag_writer import typestore_with
from actrec.utils.errors import ConfigError, InputError

STEP_NS = 33_000_000


def write_hands_bag(path: Path, frames: list[dict[str, np.ndarray]], topic: str = "/hands") -> Path:
    """Write a bag of `HandArray` messages; each frame has joints in `hand_21` by side."""
    store = typestore_with(HANDS)
    types = store.types
    with Writer(path, version=9) as writer:
        connection = writer.add_connection(topic, HANDS, typestore=store)
        unknown = types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
        for t, hands in enumerate(frames):
            stamp = types["builtin_interfaces/msg/Time"](sec=5, nanosec=t * STEP_NS)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
            messages = [_message(types, side, joints) for side, joints in hands.items()]
            raw = store.serialize_cdr(types[HANDS](header=header, up=unknown, hands=messages), HANDS)
            writer.write(connection, 5_000_000_000 + t * STEP_NS, raw)
    return path


def _message(types: dict, side: str, joints: np.ndarray) -> object:
    points = [types["geometry_msgs/msg/Point32"](*map(float, joint)) for joint in joints]
    return types["actrec_msgs/msg/Hand"](
        body_id="body_1", side=side, layout="hand_21", positions=points,
        pixels=np.full(42, np.nan, np.float32), confidences=np.ones(21, np.float32),
    )  # fmt: skip


def test_read_hands_bag_equals_recording(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.normal((0, 0, 0.6), 0.05, (20, 21, 3))
    frames = [{"right": joints, **({"left": joints + 0.2} if t > 9 else {})} for t, joints in enumerate(right)]
    bag = write_hands_bag(tmp_path / "bag", frames)
    stamps, hands = read_hands(bag, "hand_21")
    assert hands.shape == (2, 20, 21, 3) and (np.diff(stamps) == STEP_NS).all()
    np.testing.assert_allclose(hands[0], right, atol=1e-6)
    assert np.isnan(hands[1, :10]).all() and np.isfinite(hands[1, 10:]).all()
    palm = read_hands(bag, "hand_22")[1][0, :, 1]
    np.testing.assert_allclose(palm, (right[:, 0] + right[:, 9]) / 2, atol=1e-6)


def test_recorded_windows_of_hands_from_bags_and_dataset_files(tmp_path, data_root):
    package = zoo.find("sem_net_shrec17")
    files = sorted((data_root / "shrec17/raw").glob("gesture_*/**/skeletons_world.txt"))[:2]
    frames = [{"right": np.full((21, 3), 0.01 * t) + np.arange(63).reshape(21, 3) / 600} for t in range(90)]
    bag = write_hands_bag(tmp_path / "bag", frames)
    windows = recorded_windows(package, [str(bag), *map(str, files)], 6)
    assert set(windows) == {"body", "bones"} and windows["body"].shape == (6, *package.inputs[0].shape)
    assert all(np.isfinite(value).all() for value in windows.values())
    assert len({row.tobytes() for row in windows["body"]}) == 6, "windows differ"


def test_read_hands_file_equals_dataset_sequence(data_root):
    file = next((data_root / "shrec17/raw").glob("gesture_*/**/skeletons_world.txt"))
    stamps, hands = read_hands(file, "hand_22")
    name = "/".join(file.parts[-5:-1])
    sequence = next(s for s in read_shrec17_npz(data_root / "shrec17/shrec17_skeletons.npz") if s.name == name)
    np.testing.assert_allclose(hands, sequence.hands, atol=1e-6)
    assert (stamps == sequence.stamps_ns).all()


def test_recorded_windows_without_hands_refused(tmp_path, data_root):
    package = zoo.find("sem_net_shrec17")
    empty = write_hands_bag(tmp_path / "empty", [{}, {}])
    with pytest.raises(InputError, match="shows no hand in any of its 2 frames"):
        recorded_windows(package, [str(empty)], 2)
    skeleton = next((data_root / "ntu/skeleton").glob("*.skeleton"))
    with pytest.raises(InputError, match="holds no hands: give bags with actrec_msgs/msg/HandArray"):
        recorded_windows(package, [str(skeleton)], 2)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no hands"):
        read_hands(folder, "hand_22")
    other_topic = write_hands_bag(tmp_path / "other", [{"left": np.zeros((21, 3))}], "/robot/hands")
    assert read_hands(other_topic, "hand_21")[1].shape == (1, 1, 21, 3), "the bag's only topic of hands is read"
    (tmp_path / "skeletons_world.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="3 columns, expected 66"):
        read_hands(tmp_path / "skeletons_world.txt", "hand_22")


def test_recorded_windows_other_inputs_than_joints_refused():
    package = zoo.find("sem_net_utd_mhad")
    color = InputSpec("image", "image", "rgb", (3, 16, 112, 112))
    with pytest.raises(ConfigError, match="takes more than joints"):
        recorded_windows(replace(package, inputs=(*package.inputs, color)), ["anything"], 2)
