"""Mapping from a device's clock to the system's, and statistics of stamps."""

import numpy as np

from actrec.cameras.base import DeviceClock, StampStatistics

SECOND = 1_000_000_000


def frames(count, *, drift=0.0, offset=5 * SECOND, min_delay=0, seed=0):
    """Return device stamps, true system times and arrivals at 30 Hz with delays of up to 20 ms."""
    rng = np.random.default_rng(seed)
    device = np.arange(count) * 33_333_333
    true = offset + (device * (1 + drift)).astype(np.int64)
    arrival = true + min_delay + rng.exponential(4e6, count).astype(np.int64)
    return device.tolist(), true, arrival.tolist()


def test_device_clock_late_arrivals_keep_stamps():
    device, true, arrival = frames(600)
    clock = DeviceClock()
    stamps = np.array([clock.system_ns(d, a) for d, a in zip(device, arrival, strict=True)])
    assert np.abs(stamps - true)[60:].max() < 0.5e6, "within 0.5 ms, although arrivals are 4 ms late on average"
    assert np.abs(np.diff(stamps)[60:] - 33_333_333).max() < 0.2e6
    assert abs(clock.offset_ns - 5 * SECOND) < 0.5e6
    assert (stamps <= np.array(arrival)).all()


def test_device_clock_follows_drift():
    device, true, arrival = frames(9000, drift=50e-6)
    clock = DeviceClock()
    stamps = np.array([clock.system_ns(d, a) for d, a in zip(device, arrival, strict=True)])
    assert np.abs(stamps - true)[60:].max() < 1e6
    assert (np.diff(stamps) > 0).all()


def test_device_clock_reset_restarts_estimate():
    device, true, arrival = frames(300)
    clock = DeviceClock()
    for d, a in zip(device, arrival, strict=True):
        clock.system_ns(d, a)
    later = [clock.system_ns(d, a + 20 * SECOND) for d, a in zip(device, arrival, strict=True)]
    assert np.abs(np.array(later) - true - 20 * SECOND)[60:].max() < 5e6


def test_device_clock_stamps_increase_while_offset_converges():
    clock = DeviceClock()
    first = clock.system_ns(0, 10 * SECOND)  # 300 ms late
    second = clock.system_ns(33_000_000, 10 * SECOND - 267_000_000)
    assert second == first + 1
    assert clock.system_ns(10 * SECOND, 20 * SECOND - 300_000_000) == 20 * SECOND - 300_000_000


def test_device_clock_follows_system_clock_set_back():
    device, true, arrival = frames(300, offset=7200 * SECOND)
    clock = DeviceClock()
    for d, a in zip(device[:150], arrival[:150], strict=True):
        clock.system_ns(d, a)
    hour = 3600 * SECOND
    later = np.array([clock.system_ns(d, a - hour) for d, a in zip(device[150:], arrival[150:], strict=True)])
    assert np.abs(later - true[150:] + hour).max() < 40e6
    assert np.median(np.diff(later)) > 30e6, "stamps must not be 1 ns apart for an hour"


def test_device_clock_without_frames_has_zero_offset():
    assert DeviceClock().offset_ns == 0


def test_stamp_statistics_delay_and_jitter():
    figures = StampStatistics()
    rng = np.random.default_rng(0)
    for i in range(400):
        stamp = i * 33_333_333 + int(rng.normal(0, 1e6))
        figures.update(stamp, stamp + 12_000_000)
    assert abs(figures.delay_ms - 12) < 1e-6
    assert 0.4 < figures.jitter_ms < 2.5
