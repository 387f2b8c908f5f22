"""Random performances of everyday actions."""

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.everyday import vocabulary
from actrec.simulation import actions, posture
from actrec.simulation.performances import gestures, movements, others, performance
from actrec.simulation.performances.gestures import MAKERS, perform
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import ConfigError

_J = KINECT_V2_25.index
_PARENTS = list(KINECT_V2_25.parents)


@pytest.mark.parametrize("name", MAKERS)
def test_perform_gives_a_person_before_the_camera(name):
    stamps_ns, joints = perform(name, (1, 2), hz=10)
    assert joints.shape == (len(stamps_ns), 25, 3) and joints.dtype == np.float64
    assert (np.diff(stamps_ns) > 0).all() and 0.5e9 < stamps_ns[-1] < 20e9
    lengths = np.linalg.norm(joints - joints[:, _PARENTS], axis=-1)
    assert (lengths.std(axis=0) < 0.003).all()
    height = joints[:, [_J["ankle_left"], _J["ankle_right"]], 1].max(axis=1) - joints[:, _J["spine_base"], 1]
    assert (height > 0.05).all()  # the hips are above the ankles
    assert (joints[..., 2] > 0.3).all()
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 1.2  # m in 0.1 s


def test_perform_draws_another_way_for_each_seed():
    first, again, other = (perform("wave", seed, hz=10)[1] for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or np.abs(first - other).max() > 0.05


def _relative(name: str, joint: str, to: str, takes: int = 12) -> np.ndarray:
    """Return the nearest that either side's joint comes to a joint in each take, m."""
    found = []
    for take in range(takes):
        joints = perform(name, (7, take), hz=10)[1]
        away = [joints[:, _J[f"{joint}_{side}"]] - joints[:, _J[to]] for side in ("left", "right")]
        found.append(min(np.linalg.norm(a, axis=-1).min() for a in away))
    return np.array(found)


def test_perform_hands_come_to_the_place_of_the_action():
    assert (_relative("drink", "wrist", "head") < 0.35).all()
    assert (_relative("phone", "wrist", "head") < 0.35).all()
    assert (_relative("press a button", "wrist", "head") > 0.2).all()
    for take in range(12):
        joints = perform("pick up", (7, take), hz=10)[1]
        hands = joints[:, [_J["wrist_left"], _J["wrist_right"]], 1].max(axis=1)  # y points down
        ankles = joints[:, [_J["ankle_left"], _J["ankle_right"]], 1].max(axis=1)
        assert (ankles - hands).min() < 0.45
        clapping = perform("clap", (7, take), hz=30)[1]
        between = np.linalg.norm(clapping[:, _J["wrist_left"]] - clapping[:, _J["wrist_right"]], axis=-1)
        assert between.min() < 0.2


def _arm(name: str, take: int) -> np.ndarray:
    """Return shoulder, elbow and wrist [3, T, 3] of the hand that comes highest, in axes that point down."""
    joints = perform(name, (11, take), hz=10)[1]
    side = min(("left", "right"), key=lambda s: float(joints[:, _J[f"wrist_{s}"], 1].min()))
    return np.stack([joints[:, _J[f"{joint}_{side}"]] for joint in ("shoulder", "elbow", "wrist")])


@pytest.mark.parametrize("name", ["point", "stop", "raise hand", "come here", "press a button"])
def test_perform_the_elbow_does_not_lead_when_an_arm_rises_or_falls(name):
    over = []
    for take in range(12):
        shoulder, elbow, wrist = _arm(name, take)[..., 1]
        over.append((np.minimum(shoulder, wrist) - elbow).max())
    assert np.percentile(over, 75) < 0.06  # m above the higher one of shoulder and wrist


def test_perform_heights_tell_raised_hands_and_palms_and_fingers_apart():
    heights = {}
    for name in ("raise hand", "stop", "point"):
        arms = [_arm(name, take)[..., 1] for take in range(16)]
        heights[name] = np.median([(shoulder - wrist).max() for shoulder, _, wrist in arms])
    assert heights["raise hand"] > heights["stop"] + 0.15 and heights["stop"] > heights["point"] + 0.05


def test_perform_a_tick_ends_above_its_beginning():
    for take in range(8):
        wrist = _arm("draw a tick", take)[2, :, 1]
        assert wrist.argmin() > 0.4 * len(wrist)  # y points down


def test_perform_phone_mostly_with_the_elbow_below_the_shoulder():
    below = []
    for take in range(20):
        joints = perform("phone", (7, take), hz=10)[1]
        away = [np.linalg.norm(joints[:, _J[f"wrist_{s}"]] - joints[:, _J["head"]], axis=-1) for s in ("left", "right")]
        side = ("left", "right")[int(away[1].min() < away[0].min())]
        held = joints[min(away, key=np.min).argmin()]
        below.append(held[_J[f"elbow_{side}"], 1] > held[_J[f"shoulder_{side}"], 1])  # y points down
    assert np.mean(below) > 0.5


def test_perform_walking_feet_stand_still_on_the_floor():
    slides = []
    for take in range(6):
        joints = perform("walk", (3, take), hz=30)[1]
        for side in ("left", "right"):
            ankle = joints[:, _J[f"ankle_{side}"]]
            low = ankle[:, 1] >= np.percentile(ankle[:, 1], 75)
            speed = np.linalg.norm(np.diff(ankle, axis=0)[:, [0, 2]], axis=-1) * 30
            slides.append(np.median(speed[low[1:]]))
    assert max(slides) < 0.8 and np.median(slides) < 0.4  # m/s, of walks of up to 1.4 m/s


def test_perform_walks_end_standing_or_on_the_way_and_some_turn_about():
    moved, turned = [], []
    for take in range(16):
        joints = perform("walk", (5, take), hz=10)[1]
        ankles = joints[-3:, [_J["ankle_left"], _J["ankle_right"]]]
        moved.append(np.ptp(ankles, axis=0).max())
        hips = joints[:, _J["hip_left"]] - joints[:, _J["hip_right"]]
        turned.append(np.ptp(np.unwrap(np.arctan2(hips[:, 2], hips[:, 0]))))
    assert min(moved) < 0.03 and max(moved) > 0.1  # m in the last 0.2 s
    assert np.median(turned) < 1.5 and max(turned) > 2.0  # rad


def test_perform_kicks_keep_the_hips_up():
    for take in range(12):
        height = -perform("kick", (5, take), hz=10)[1][:, _J["spine_base"], 1]
        assert np.ptp(height) < 0.2


def test_perform_punches_with_a_straight_arm_and_sometimes_the_other_at_rest():
    low = 0
    for take in range(12):
        joints = perform("punch", (5, take), hz=30)[1]
        arms = joints[:, [_J["wrist_left"], _J["wrist_right"]]] - joints[:, [_J["shoulder_left"], _J["shoulder_right"]]]
        reach = np.linalg.norm(arms, axis=-1)
        assert (reach * (arms[..., 1] < 0.2)).max() > 0.85 * reach.max()  # near the height of the shoulder
        low += int((arms[..., 1].min(axis=0) > 0.3).any())
    assert 1 <= low <= 9


@pytest.mark.parametrize(("name", "seated"), [("sit down", -1), ("stand up", 0)])
def test_perform_sometimes_rests_on_the_seat(name, seated):
    rests = []
    for take in range(12):
        hips = perform(name, (5, take), hz=10)[1][:, _J["spine_base"], 1]  # y points down
        rests.append(np.mean(np.abs(hips - hips[seated]) < 0.02))
    assert min(rests) < 0.25 and max(rests) > 0.3  # share of the performance


def test_perform_unknown_action_raises():
    with pytest.raises(ConfigError, match="the actor has no action 'fly'; known: wave, raise hand"):
        perform("fly", (0,))


def test_acted_performs_classes_of_everyday_for_training_alone(tmp_path):
    source = datasets.source("acted", "", clips=2)
    assert set(source.classes) <= set(vocabulary().classes)
    entries, unknown = source.entries(), source.unknown_entries()
    assert len(entries) == 2 * len(source.classes) and len(unknown) == 16
    clip = source.read(entries[2])
    assert clip.label == 1 and clip.bodies.dtype == np.float32 and clip.bodies.shape[2:] == (25, 3)
    assert np.array_equal(source.read(entries[2]).bodies, clip.bodies)
    assert source.fingerprint(entries) != source.fingerprint(entries[1:])
    before = source.fingerprint(entries)
    with pytest.MonkeyPatch.context() as patch:  # another version of any module that performs
        for module in (gestures, movements, performance, posture, actions):
            patch.setattr(module, "__file__", __file__)
            assert source.fingerprint(entries) != before
            patch.undo()
    assert {source.part(entry, "people") for entry in entries} == {"train", "test"}


@pytest.mark.parametrize("kind", range(len(others.KINDS)))
def test_other_actions_begin_and_end_at_rest(kind):
    """Each in several ways, with movement in between."""
    made = others.KINDS[kind][1]
    for seed in range(4):
        draw = performance.Draw(np.random.default_rng([kind, seed]))
        motion = made(draw)
        assert 0.6 < motion.times[-1] < 20
        first, last = motion.postures(np.array([0.0, motion.times[-1]]))
        np.testing.assert_allclose(first, last, atol=1e-6)
        moved = motion.postures(np.linspace(0, motion.times[-1], 30))
        assert np.isfinite(moved).all() and np.ptp(moved, axis=0).max() > 0.1


def test_acted_background_is_waiting_and_other_actions():
    source = datasets.source("acted", "", clips=2)
    assert not {"unknown", "other"} & set(source.classes)
    entries = source.unknown_entries()
    assert {entry.name.split()[0] for entry in entries} == {"unknown", "other"} and {e.label for e in entries} == {-1}
    clips = [source.read(entry).bodies for entry in entries if entry.name.startswith("other")]
    assert len({clip.shape[1] for clip in clips}) > 2 and all(np.isfinite(clip).all() for clip in clips)
