"""Sensor noise compared with the published models."""

from dataclasses import replace

import numpy as np
import pytest

from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.types import Intrinsics

STRUCTURED_LIGHT, TIME_OF_FLIGHT, STEREO = (SENSORS[name] for name in ("structured_light", "time_of_flight", "stereo"))
INTRINSICS = Intrinsics(320, 240, 525.0, 525.0, 159.5, 119.5)


def wall(depth: float, cosine: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return np.full((240, 320), depth, np.float32), np.full((240, 320), cosine, np.float32)


@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize("depth", [0.9, 2.0, 3.7])
def test_noise_depth_of_wall_has_model_spread_without_bias(name, depth) -> None:
    sensor = SENSORS[name]
    noise = SensorNoise(sensor, INTRINSICS, seed=1)
    samples = np.stack([noise.depth(*wall(depth), number) for number in range(6)])
    quantum = sensor.disparity_step * depth**2
    expected = np.sqrt(sensor.axial(np.array(depth)) ** 2 + quantum**2 / 12 + 0.001**2 / 12)
    assert np.nanstd(samples) == pytest.approx(expected, rel=0.10)
    assert abs(np.nanmean(samples) - depth) < 0.25 * expected + 0.5 * quantum * 0.2


def test_axial_noise_matches_published_figures() -> None:
    # Nguyen 2012: 0.0012 + 0.0019·(2 − 0.4)² at 2 m, face on.
    assert STRUCTURED_LIGHT.axial(2.0) == pytest.approx(0.006064)
    # Fankhauser 2015: 1.5 − 0.5·2 + 0.3·4 mm.
    assert TIME_OF_FLIGHT.axial(2.0) == pytest.approx(0.0017, rel=1e-3)
    # Intel: 0.08 px at 2 m with f 420 px and B 50 mm.
    assert STEREO.axial(2.0) == pytest.approx(0.0005 + 4 * 0.08 / 21, rel=1e-6)


def test_noise_depth_grows_with_angle() -> None:
    noise = SensorNoise(STRUCTURED_LIGHT, INTRINSICS)
    spread = [np.nanstd(noise.depth(*wall(2.0, cosine), 0)) for cosine in (1.0, 0.45, 0.25)]
    assert spread[1] == pytest.approx(spread[0], rel=0.1) and spread[2] > 1.03 * spread[1]
    assert np.isnan(noise.depth(*wall(2.0, 0.05), 0)).all()


def test_noise_depth_of_wall_is_quantized() -> None:
    noise = SensorNoise(STRUCTURED_LIGHT, INTRINSICS)
    values = np.unique(noise.depth(*wall(3.5), 0)[100:140, 100:140])
    values = values[np.isfinite(values)]
    # Khoshelham 2012: 2.85 mm · 3.5² = 35 mm between levels.
    assert np.median(np.diff(values)) == pytest.approx(2.85e-3 * 3.5**2, rel=0.1)


def test_noise_depth_out_of_range_is_nan() -> None:
    noise = SensorNoise(STRUCTURED_LIGHT, INTRINSICS)
    for depth in (0.3, 6.5):
        assert np.isnan(noise.depth(*wall(depth), 0)).all()


def test_noise_depth_left_of_object_is_in_shadow() -> None:
    sensor = replace(STRUCTURED_LIGHT, dropout=0.0, lateral=0.0, silhouette_loss=0.0)
    depth, facing = wall(4.0)
    depth[:, 150:200] = 2.0
    measured = SensorNoise(sensor, INTRINSICS).depth(depth, facing, 0)
    missing = np.isnan(measured).mean(axis=0) > 0.5
    width = 525.0 * sensor.baseline * (1 / 2.0 - 1 / 4.0)
    assert missing[:150].sum() == pytest.approx(width, abs=1.5)
    assert missing[150 - int(width) + 1 : 150].all() and not missing[150:].any()


def test_noise_time_of_flight_has_flying_pixels_without_shadow() -> None:
    depth, facing = wall(4.0)
    depth[:, 150:200] = 2.0
    measured = SensorNoise(TIME_OF_FLIGHT, INTRINSICS).depth(depth, facing, 0)
    between = (measured > 2.1) & (measured < 3.9)
    assert between[:, 149:151].mean() > 0.2
    assert between[:, :147].sum() == 0
    assert np.isnan(measured[:, 120:147]).mean() < 0.01


def test_noise_stereo_errors_are_correlated() -> None:
    correlations = []
    for sensor in (replace(STEREO, dropout=0.0, lateral=0.0), replace(TIME_OF_FLIGHT, dropout=0.0, lateral=0.0)):
        error = SensorNoise(sensor, INTRINSICS).depth(*wall(2.0), 0)[10:-10, 60:-10] - 2.0
        correlations.append(np.corrcoef(error[:, :-2].ravel(), error[:, 2:].ravel())[0, 1])
    assert correlations[0] > 0.7 and abs(correlations[1]) < 0.05


def test_noise_color_matches_shot_and_read_noise() -> None:
    noise = SensorNoise(STRUCTURED_LIGHT, INTRINSICS)
    for value in (40, 200):
        flat = np.full((240, 320, 3), value, np.uint8)
        noisy = noise.color(flat, 0).astype(np.float64)
        assert noisy.std() == pytest.approx(np.sqrt(1.2**2 + 0.035 * value + 1 / 12), rel=0.05)
        assert noisy.mean() == pytest.approx(value, abs=0.1)
        assert (flat == value).all()


def test_noise_depth_same_seed_and_number_repeats() -> None:
    first, again, other = (SensorNoise(STRUCTURED_LIGHT, INTRINSICS, seed) for seed in (1, 1, 2))
    depth, facing = wall(2.0)
    np.testing.assert_array_equal(first.depth(depth, facing, 5), again.depth(depth, facing, 5))
    assert not np.array_equal(first.depth(depth, facing, 5), first.depth(depth, facing, 6), equal_nan=True)
    assert not np.array_equal(first.depth(depth, facing, 5), other.depth(depth, facing, 5), equal_nan=True)
