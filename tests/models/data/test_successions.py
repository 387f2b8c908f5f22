"""Windows between actions: waiting and moving on, and samples of the background between actions."""

import numpy as np
import pytest

from actrec.datasets.base import Clip, ClipDataset
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data import continuous
from actrec_models.data.augmentation import DRIVE_M_S, Augmentation, recorded_by_robot, sample_between, sample_window
from actrec_models.data.samples import Samples, check_between
from actrec_models.training.recipe import Recipe

FIRST, SECOND = 1.0, 2.0
"""Marks of two clips: how high their joints are above the hips, m; how far ahead is the time in the clip, s."""


def clip(mark: float, seconds: float = 2.0, label: int = 0) -> Clip:
    stamps_ns = (np.arange(round(seconds * 20) + 1) * NANOSECONDS) // 20
    bodies = np.zeros((1, len(stamps_ns), 25, 3), np.float32)
    bodies[:, :, 1:, 1], bodies[:, :, 1:, 2] = mark, (stamps_ns / NANOSECONDS)[:, None]
    return Clip(f"marked {mark:g}", label, stamps_ns, bodies)


def marks(bodies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return marks [T] and times in the clip [T], s, of bodies [1, T, 25, 3], relative to the hips."""
    relative = bodies[0, :, 5] - bodies[0, :, 0]
    return relative[:, 1], relative[:, 2]


@pytest.mark.parametrize("speed", [0.8, 1.25])
@pytest.mark.parametrize("seed", range(5))
def test_wait_and_follow_moves_from_the_last_pose_to_the_first(seed: int, speed: float) -> None:
    first, second = clip(FIRST), clip(SECOND, label=1)
    joined = continuous.wait_and_follow(first, second, np.random.default_rng(seed), speed=speed, shortest_s=1.5)
    frames = len(first.stamps_ns), len(second.stamps_ns)
    np.testing.assert_array_equal(joined.bodies[:, -frames[1] :], second.bodies)
    assert joined.label == 1 and (np.diff(joined.stamps_ns) > 0).all()
    assert np.abs(np.diff(marks(joined.bodies)[0])).max() < 0.2, "no jump"
    between_s = (joined.stamps_ns[-frames[1]] - joined.stamps_ns[frames[0] - 1]) / NANOSECONDS * speed
    assert 1.45 < between_s < 1.5 + continuous.WAIT_S[1] + continuous.MOVE_S[1]
    assert len(joined.stamps_ns) - sum(frames) == pytest.approx(30 * between_s, abs=3)


def test_wait_holds_the_last_pose_with_a_little_sway() -> None:
    joined = continuous.wait(clip(FIRST), 2.0, np.random.default_rng(1), speed=0.5)
    assert (joined.stamps_ns[-1] - 2 * NANOSECONDS) / NANOSECONDS == pytest.approx(4.0, abs=0.1)
    waited = joined.bodies[0, 41:]
    assert 0.001 < np.abs(waited - waited[0]).max() < 0.06


def test_sample_window_after_waiting_has_the_person_throughout() -> None:
    options = Augmentation(before=1.0, waiting=1.0, frame_loss=0.0, cut=0.0, hold_s=0.0, speed=1.0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        window = sample_window(clip(SECOND), 4.0, 40, options, rng, before=clip(FIRST)).resampled()
        found, times = marks(window)
        assert found[-1] == pytest.approx(SECOND) and times[-1] == pytest.approx(2.0, abs=0.01)
        assert found[0] < SECOND - 0.1 and np.abs(np.diff(found)).max() < 0.5


def test_sample_between_shows_no_action_that_has_just_ended_or_has_begun() -> None:
    """Each ends 1.2 s or more after an action, and in the first quarter of the next one at most."""
    options, before, kinds = Augmentation(before=0.5, waiting=1.0, frame_loss=0.2, speed=1.3), clip(FIRST), set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        window = sample_between(clip(SECOND), 3.0, 60, options, rng, before)
        found, times = marks(window.resampled())
        period_s = 3.0 / 60
        if found[-1] > SECOND - 0.05 and times[-1] > 1.9:  # it waits after the second action
            rest = len(times) - 1 - int(np.flatnonzero(times < 1.9)[-1]) if (times < 1.9).any() else len(times)
            assert rest * period_s > 1.0
            kinds.add("after")
        else:
            assert found[-1] < SECOND - 0.05 or times[-1] <= 0.5 * 1.3 + 0.01
            own = np.flatnonzero((found < FIRST + 0.02) & (times < 1.9))  # frames of the first action
            assert not len(own) or (len(times) - 1 - own[-1]) * period_s > 1.0
            kinds.add("begun" if found[-1] > SECOND - 0.01 else "before")
    assert kinds == {"after", "before", "begun"}


def test_sample_between_takes_no_held_pose_after_a_long_clip() -> None:
    """Someone who works at a table hardly moves: the pose after a clip of it is the same as in it."""
    options = Augmentation(before=0.0, waiting=1.0, speed=1.0)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found, times = marks(sample_between(clip(SECOND, 5.0), 3.0, 60, options, rng, clip(FIRST)).resampled())
        assert times[-1] < 0.55 or found[-1] < SECOND - 0.01


SPECS = [InputSpec("body", "body", "kinect_v2_25", (1, 3, 30, 25), "m", {"lengths": "own"})]


def test_samples_between_actions_are_background() -> None:
    clips = ClipDataset([clip(FIRST), clip(SECOND, label=1)], ("one", "two"))
    recipe = config.build(Recipe, {"background": 0.1, "between": 0.4})
    made = Samples(clips, SPECS, WindowSpec(3.0, 30), recipe, Augmentation(before=0.5), background=clips.subset([0]))
    labels = [made[epoch, 1, 0]["label"] for epoch in range(300)]
    assert set(labels) == {1, 2}
    assert 0.36 < labels.count(2) / 300 < 0.56, "0.1, and 0.4 of the others"


@pytest.mark.parametrize("modality, background", [("body", 0.0), ("image", 0.1)])
def test_between_without_background_or_with_images_is_refused(modality: str, background: float) -> None:
    image = InputSpec("image", "image", "", (3, 30, 8, 8))
    recipe = config.build(Recipe, {"background": background, "between": 0.1})
    with pytest.raises(ConfigError, match=r"between is for networks of bodies alone, beside a background: set it to 0"):
        check_between(SPECS if modality == "body" else [image], recipe)
    check_between(SPECS, config.build(Recipe, {"background": 0.1, "between": 0.1}))


def test_recorded_by_robot_moves_all_joints_alike_but_at_the_end() -> None:
    options, still = Augmentation(driven=1.0), clip(FIRST)
    still.bodies[:, :, 1:, 2] = 0  # a person who rests, 3 m away
    still.bodies[..., 2] += 3
    window = sample_window(
        still, 2.0, 20, Augmentation(cut=0.0, hold_s=0.0, frame_loss=0.0, speed=1.0), np.random.default_rng(0)
    )
    highest = 0.0
    for seed in range(20):
        seen = recorded_by_robot(window, options, np.random.default_rng(seed)).resampled()
        np.testing.assert_allclose(seen[:, -1], window.resampled()[:, -1], atol=1e-4)
        np.testing.assert_allclose(seen[..., 1], window.resampled()[..., 1], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(seen[0, :, 5] - seen[0, :, 0], axis=-1), FIRST, atol=1e-4)
        highest = max(highest, float(np.linalg.norm(seen[0, 0, 0] - seen[0, -1, 0])))
    assert DRIVE_M_S < highest < 2 * (DRIVE_M_S + 0.5 * 4)
    assert recorded_by_robot(window, Augmentation(), np.random.default_rng(0)) is window
