"""The part of a clip in which a person moves."""

import numpy as np
import pytest

from actrec import datasets
from actrec.skeleton.activity import active_span, is_resting
from actrec.skeleton.layouts import KINECT_V2_25

RATE = 30
SECOND = np.int64(1_000_000_000)


def clip(moves: tuple[float, float], seconds: float, noise_m: float = 0.0, missing: tuple[str, ...] = ()):
    """Return stamps and a standing body whose right arm goes up and down by a sine of 1 Hz in the seconds `moves`."""
    times = np.arange(int(seconds * RATE)) / RATE
    bodies = np.zeros((1, len(times), 25, 3), np.float32)
    heights = {"shoulder": -1.4, "hip": -0.9, "wrist": -0.8}
    for joint, height in heights.items():
        for side in ("left", "right"):
            bodies[..., KINECT_V2_25.index[f"{joint}_{side}"], 1] = height
    arm = [KINECT_V2_25.index[f"{joint}_right"] for joint in ("elbow", "wrist", "hand", "thumb")]
    shift = 0.25 * (1 - np.cos(2 * np.pi * np.clip(times - moves[0], 0, moves[1] - moves[0])))
    bodies[:, :, arm, 1] -= shift[:, None].astype(np.float32)
    bodies += np.random.default_rng(0).normal(0, noise_m, bodies.shape).astype(np.float32)
    bodies[..., [KINECT_V2_25.index[name] for name in missing], :] = np.nan
    return (times * SECOND).astype(np.int64), bodies


@pytest.mark.parametrize("noise_m", [0.0, 0.005])
@pytest.mark.parametrize("moves", [(1.0, 3.0), (0.0, 2.0), (2.5, 4.5)])
def test_active_span_finds_motion_between_standing(moves, noise_m):
    first, last = active_span(*clip(moves, 5.0, noise_m, ("foot_left", "hand_tip_right")))
    assert moves[0] - 0.45 <= first / RATE <= moves[0] + 0.1
    assert moves[1] - 0.1 <= last / RATE <= moves[1] + 0.45


@pytest.mark.parametrize(
    "moves, seconds", [((0.5, 1.0), 1.1), ((0.0, 4.0), 4.0), ((2.0, 2.05), 4.0), ((0.0, 0.0), 3.0)]
)
def test_active_span_short_or_constant_clip_stays_whole(moves, seconds):
    """0.05 s of motion are noise; without any motion there is nothing to cut off."""
    stamps_ns, bodies = clip(moves, seconds)
    assert active_span(stamps_ns, bodies) == (0, len(stamps_ns) - 1)


def test_active_span_takes_the_most_active_body_and_ignores_missing_ones():
    stamps_ns, still = clip((0.0, 0.0), 5.0)
    moving = clip((2.0, 4.0), 5.0)[1]
    expected = active_span(stamps_ns, moving)
    assert active_span(stamps_ns, np.concatenate([still, moving])) == expected
    assert active_span(stamps_ns, np.concatenate([moving, np.full_like(moving, np.nan)])) == expected
    assert active_span(stamps_ns, np.full_like(moving, np.nan)) == (0, len(stamps_ns) - 1)


def test_active_span_keeps_whole_sit_downs(data_root):
    """N-UCLA's people sit down in at least 85 % of the way that the clip's hips sink, without the cut-off parts."""
    source = datasets.source("nucla", data_root / "nucla")
    entries = [entry for entry in source.entries() if source.classes[entry.label] == "sit down"][::8]
    kept = []
    for entry in entries:
        read = source.read(entry)
        first, last = active_span(read.stamps_ns, read.bodies)
        hips = read.bodies[0, :, 0, 1]
        kept.append(np.ptp(hips[first : last + 1]) / np.ptp(hips))
    assert len(kept) > 10 and np.median(kept) == 1 and np.mean(np.array(kept) > 0.85) >= 0.9


def test_is_resting_needs_hands_down_and_upright_torso():
    bodies = clip((0.0, 0.0), 2.0)[1]
    assert is_resting(bodies)
    raised, lying = bodies.copy(), bodies[..., [1, 0, 2]]
    raised[..., KINECT_V2_25.index["wrist_left"], 1] = -1.5
    assert not is_resting(raised) and not is_resting(lying) and not is_resting(np.full_like(bodies, np.nan))
