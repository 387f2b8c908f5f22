"""The direction of gravity in the user's recordings, prepared stores and training samples."""

from pathlib import Path

import numpy as np
import pytest

from actrec.datasets.base import Clip, ClipDataset
from actrec.datasets.store import STORED_KEYS, PreparedDataset
from actrec.datasets.user_folder import Folder
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import Body
from actrec.utils import config, gravity
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.preparation import prepare
from actrec_models.data.samples import Samples
from actrec_models.networks import create
from actrec_models.training.recipe import Recipe
from tests.models.data.test_samples import people

UPS = {"upside down": gravity.up_from_angles(180, 20), "left": gravity.up_from_angles(-80, 30), "level": None}
NODDING = [gravity.up_from_angles(roll, 10 + roll) for roll in np.linspace(0, 15, 20)]


def samples(clips: list[Clip], augmentation: Augmentation | None, kind: str, **settings: str) -> Samples:
    network = create("sem_net", num_classes=2, frames=16, bodies=2)
    recipe = config.build(Recipe, {"model": "sem_net", "clips": kind, "outliers": 0.3, **settings})
    return Samples(ClipDataset(clips, ["a", "b"]), network.input_specs, recipe.window(network), recipe, augmentation)


def seen_by(clip: Clip, up: np.ndarray | None) -> Clip:
    """Return a clip of a level camera as another one records it."""
    if up is None:
        return clip
    return Clip(clip.name, clip.label, clip.stamps_ns, clip.bodies @ gravity.level_rotation(up), {"up": up})


@pytest.mark.parametrize("up", UPS.values(), ids=UPS)
@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["recorded", "augmented"])
@pytest.mark.parametrize("kind", ["live", "whole"])
def test_samples_do_not_depend_on_the_mounting(up, augmentation, kind: str) -> None:
    level = [people(1), people(2, 30)]
    expected, turned = (samples(clips, augmentation, kind) for clips in (level, [seen_by(c, up) for c in level]))
    for draw in [(epoch, index, 0) for epoch in range(4) for index in range(2)]:
        for name, value in expected[draw].items():
            np.testing.assert_allclose(turned[draw][name], value, atol=2e-5)


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["recorded", "augmented"])
def test_samples_in_the_cameras_axes_ignore_the_mounting(augmentation) -> None:
    up = gravity.up_from_angles(-80, 30)
    clips = [people(1), people(2, 30)]
    stated = [Clip(c.name, c.label, c.stamps_ns, c.bodies, {"up": up}) for c in clips]
    expected, found = samples(clips, augmentation, "live"), samples(stated, augmentation, "live", gravity="camera")
    assert found.window.gravity == "camera"
    for name, value in expected[1, 1, 0].items():
        np.testing.assert_array_equal(found[1, 1, 0][name], value)


def write_takes(root: Path, up_at) -> ClipDataset:
    """Write a take of each clip as a camera with `up_at(frame)` records it; return the clips of a level camera."""
    level = [people(1, 20 + n) for n in range(2)]
    for n, clip in enumerate(level):
        (root / "ab"[n]).mkdir(parents=True)
        with BagWriter(root / "ab"[n] / "take") as bag:
            for k, stamp in enumerate(clip.stamps_ns):
                joints = clip.bodies[0, k]
                if (up := up_at(k)) is not None:
                    joints = joints @ gravity.level_rotation(up)
                body = Body("body_1", "kinect_v2_25", joints, joints[:, :2], np.ones(25, np.float32))
                bag.write_bodies(SKELETONS_TOPIC, int(stamp) + 1, "lens", [body], up)
    return ClipDataset(level, ["a", "b"])


@pytest.mark.parametrize(
    "up_at",
    [lambda k: UPS["upside down"], lambda k: NODDING[min(k, 19)], lambda k: UPS["left"] if k > 3 else None],
    ids=["fixed", "on a nodding head", "known from the fourth frame on"],
)
def test_folder_and_store_keep_the_direction_of_gravity(tmp_path: Path, up_at) -> None:
    level = write_takes(tmp_path / "of_frames", up_at)
    folder = Folder(tmp_path / "of_frames")
    prepare("folder", tmp_path / "of_frames", tmp_path / "store")
    store = PreparedDataset(tmp_path / "store")
    for n, entry in enumerate(folder.entries()):
        read, stored = folder.read(entry), store[n]
        first = 4 if up_at(0) is None else 0  # earlier frames were written level
        for clip in (read, stored):
            np.testing.assert_allclose(clip.streams["up"], up_at(30), atol=1e-6)
            np.testing.assert_allclose(clip.leveled().bodies[:, first:], level[n].bodies[:, first:], atol=1e-5)
    assert "up" in store.head.streams and store.streams == {"bodies"}


def test_stored_keys_keep_their_numbers() -> None:
    """The index of a store counts keys by number."""
    assert STORED_KEYS == (
        "stamps_ns", "bodies", "pixels", "hands", "hand_pixels", "face", "face_pixels", "motion", "size", "color",
        "flow", "up",
    )  # fmt: skip


def test_folder_upside_down_take_without_up_is_estimated(tmp_path: Path) -> None:
    person = example_clip([InputSpec("body", "body", "kinect_v2_25", (1, 3, 1, 25))], 1)["bodies"][0, 0]
    turned = gravity.turn_vectors(person, 2)
    for label in "ab":
        (tmp_path / label).mkdir()
        with BagWriter(tmp_path / label / "take") as bag:
            for k in range(20):
                body = Body("body_1", "kinect_v2_25", turned, turned[:, :2], np.ones(25, np.float32))
                bag.write_bodies(SKELETONS_TOPIC, k * 100_000_000, "lens", [body])
    folder = Folder(tmp_path)
    clip = folder.read(folder.entries()[0])
    assert clip.streams["up"] @ np.array([0, 1, 0]) > np.cos(np.radians(8))
