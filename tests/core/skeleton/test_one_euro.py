"""The One-Euro filter: less jitter at rest, little lag in motion."""

import numpy as np

from actrec.perception.tracking import TrackerConfig
from actrec.skeleton.windows import OneEuro

DEFAULTS = TrackerConfig()


def run(positions, rate):
    joint = OneEuro(DEFAULTS.min_cutoff_hz, DEFAULTS.beta)
    return np.array([joint.update(k / rate, p) for k, p in enumerate(positions.astype(np.float32))])


def test_one_euro_halves_jitter_at_rest():
    random = np.random.default_rng(1)
    noise = random.normal(0, 0.004, (300, 25, 3))
    smooth = run(noise, 30)
    assert smooth[20:].std() < 0.6 * noise[20:].std()


def test_one_euro_lags_moving_hand_by_less_than_a_frame():
    for rate in (15, 30):
        time = np.arange(0, 4, 1 / rate)
        wave = np.zeros((len(time), 1, 3))
        wave[:, 0, 0] = 0.3 * np.sin(2 * np.pi * time)
        smooth = run(wave, rate)[:, 0, 0]
        shifts = np.linspace(0, 2, 81)
        errors = [np.abs(smooth[rate:] - np.interp(time[rate:] - s / rate, time, wave[:, 0, 0])).mean() for s in shifts]
        assert shifts[int(np.argmin(errors))] < 1.0, rate


def test_one_euro_missing_joints_stay_missing_and_return_unfiltered():
    joint = OneEuro(1.0, 0.0)
    first = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], np.float32)
    joint.update(0.0, first)
    missing = first.copy()
    missing[0] = np.nan
    out = joint.update(0.1, missing)
    assert np.isnan(out[0]).all() and np.isfinite(out[1]).all()
    back = first + np.float32(0.5)
    out = joint.update(0.2, back)
    np.testing.assert_allclose(out[0], back[0])
    assert (out[1] < back[1]).any()


def test_one_euro_restarts_after_a_gap_or_a_jump_back():
    joint = OneEuro(0.1, 0.0)
    joint.update(0.0, np.zeros((1, 3), np.float32))
    for stamp in (5.0, 1.0, 1.0):
        moved = np.full((1, 3), stamp + 1, np.float32)
        np.testing.assert_array_equal(joint.update(stamp, moved), moved)
