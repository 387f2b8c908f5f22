"""Noise of RGB-D sensors for exact depth and color. All noise is determined by the seed and the frame's number."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.jit import Real, kernel

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TILE = 1024

_SILHOUETTE = np.float32(0.05)
"""Neighbors whose depth differs by more than this share are on two surfaces."""


@kernel
def _least_similar_neighbor(exact: np.ndarray, v: int, u: int) -> Real:
    """Return the depth of the neighbor in row or column whose depth differs most."""
    here, other = exact[v, u], exact[v, u - 1]
    for depth in (exact[v, u + 1], exact[v - 1, u], exact[v + 1, u]):
        other = depth if abs(depth - here) > abs(other - here) else other
    return other


@kernel
def _quantize(z: Real, quantum: Real) -> Real:
    """Round a depth, m, to a multiple of the disparity quantum (0 for none), then to whole millimeters."""
    if quantum > _ZERO:
        z = _ONE / (max(np.float32(np.int32(_ONE / (z * quantum) + _HALF)), _ONE) * quantum)
    return np.float32(np.int32(z * np.float32(1000) + _HALF)) * np.float32(0.001)


@kernel
def degrade_depth(
    exact: np.ndarray, facing: np.ndarray, axial: np.ndarray, tilted: np.ndarray, steep: np.ndarray, model: np.ndarray,
    shift: Real, patches: np.ndarray, white: np.ndarray, jitter: np.ndarray, chance: np.ndarray, offsets: np.ndarray,
    measured: np.ndarray,
) -> None:  # fmt: skip
    """Degrade depth, see `SensorNoise.depth`.

    The loops over a row compile to vector instructions, except for the shadows: against the direction of the baseline,
    a point is in shadow if, in the projector's view, an earlier point of the row has a smaller column.

    Args:
        exact, facing: [H, W] depth and cosine of the angle of incidence.
        axial, tilted: [Z] standard deviation at normal incidence, and its growth, at depth far·k/(Z − 1).
        steep: [C] factor on `tilted` at cosine k/(C − 1).
        model: [7] disparity quantum, grazing cosine, flying share, silhouette loss, dropout, near, far.
        shift: Focal length times baseline, px·m.
        patches, white, jitter, chance: [S, S + W, …] tiles of Gaussian noise, displacements in px, and uniform numbers.
        offsets: [8] start positions in the tiles.
        measured: [H, W], out.
    """
    quantum, grazing, flying, loss, dropout, near, far = model
    height, width = exact.shape
    mask, left, right = white.shape[0] - 1, offsets[5], offsets[5] + width
    every_z, every_cosine = exact.reshape(-1), facing.reshape(-1)
    last = np.float32(len(axial) - 1)
    z_scale, c_scale = last / far, np.float32(len(steep) - 1)
    sign = _ONE if shift >= _ZERO else -_ONE
    lost_or_flying = loss + flying
    column, reached = np.zeros(width, np.float32), np.zeros(width, np.float32)
    z, cosine = np.empty(width, np.float32), np.empty(width, np.float32)
    for v in range(height):
        row, out = exact[v], measured[v]
        patch, displaced = patches[(v + offsets[0]) & mask, left:right], jitter[(v + offsets[1]) & mask, left:right]
        dropout_chance = chance[(v + offsets[2]) & mask, left:right]
        silhouette_chance = chance[(v + offsets[3]) & mask, left:right]
        grazing_noise = white[(v + offsets[4]) & mask, left:right]
        if shift != _ZERO:
            for u in range(width):
                column[u] = sign * (np.float32(u) - shift / row[u])
            reach = np.float32(1e30)
            for k in range(width):
                u = width - 1 - k if shift >= _ZERO else k
                reached[u] = reach
                reach = min(reach, column[u])
        for u in range(width):
            x, y = np.int32(u) + np.int32(displaced[u, 0]), np.int32(v) + np.int32(displaced[u, 1])
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            at = np.int32(y * width + x) if inside else np.int32(v * width + u)
            z[u], cosine[u] = every_z[at], every_cosine[at]
        if lost_or_flying > _ZERO and 0 < v < height - 1:
            above, below = exact[v - 1], exact[v + 1]
            for u in range(1, width - 1):
                here = row[u]
                beside = max(abs(row[u + 1] - here), abs(row[u - 1] - here))
                if max(beside, max(abs(above[u] - here), abs(below[u] - here))) > _SILHOUETTE * here:
                    other, value = _least_similar_neighbor(exact, v, u), silhouette_chance[u]
                    if value < loss:
                        z[u] = _ZERO
                    elif value < lost_or_flying:
                        z[u] = here + (other - here) * (value - loss) / flying
        for u in range(width):
            lost = (z[u] > far) | (z[u] < near) | (dropout_chance[u] < dropout) | (column[u] > reached[u] + _HALF)
            lost |= cosine[u] + np.float32(0.02) * grazing_noise[u] < grazing
            bin_z = np.int32(min(max(z[u] * z_scale + _HALF, _ZERO), last))
            bin_c = np.int32(max(cosine[u], _ZERO) * c_scale + _HALF)
            noisy = z[u] + (axial[bin_z] + tilted[bin_z] * steep[bin_c]) * patch[u]
            out[u] = np.float32(np.nan) if lost else _quantize(noisy, quantum)


@kernel
def degrade_color(color: np.ndarray, sigma: np.ndarray, white: np.ndarray, offsets: np.ndarray) -> None:
    """Add independent Gaussian noise of sigma[value] to each channel of [H, W, 3] uint8, in place."""
    height, width = color.shape[:2]
    mask = white.shape[0] - 1
    top = np.float32(255)
    for v in range(height):
        for channel in range(3):
            left = offsets[channel + 3]
            row = white[(v + offsets[channel]) & mask, left : left + width]
            for u in range(width):
                value = color[v, u, channel]
                noisy = np.float32(value) + sigma[value] * row[u]
                color[v, u, channel] = np.uint8(min(max(noisy + _HALF, _ZERO), top))


@dataclass(frozen=True)
class DepthSensor:
    """Error model of a depth sensor.

    The axial standard deviation is s0 + s1·(z − z0)² + tilt·z^tilt_power·θ²/(π/2 − θ)² with θ the angle of incidence.
    """

    s0: float = 0.0012  # axial noise at depth z0, m
    s1: float = 0.0019  # growth of the axial noise with the squared depth beyond z0, 1/m
    z0: float = 0.4  # depth of the smallest axial noise, m
    tilt: float = 0.0001  # growth of the axial noise with the angle of incidence, m
    tilt_power: float = -0.5  # power of the depth in the angle term
    tilt_from: float = 1.047  # minimum angle of incidence of the angle term, rad
    lateral: float = 0.8  # standard deviation of the measured pixel's position, px
    disparity_step: float = 2.85e-3  # depth quantum at 1 m; grows with the squared depth, 1/m
    baseline: float = 0.075  # from camera to projector (or second camera), to the right; causes shadows, m
    correlation: float = 1.0  # correlation length of the error, px
    grazing: float = 0.15  # cosine of the angle of incidence below which there is no measurement
    flying: float = 0.0  # share of silhouette pixels measured between both surfaces
    silhouette_loss: float = 0.25  # share of silhouette pixels without a measurement
    dropout: float = 0.002  # share of all pixels without a measurement
    near: float = 0.5  # minimum depth, m
    far: float = 5.0  # maximum depth, m

    def axial(self, depth: np.ndarray) -> np.ndarray:
        """Return the standard deviation (m) on a surface that faces the camera at `depth` m."""
        return self.s0 + self.s1 * (depth - self.z0) ** 2


SENSORS = {
    # Kinect v1, Xtion. Noise: Nguyen, Izadi and Lovell (2012); quanta: Khoshelham and Elberink (2012).
    "structured_light": DepthSensor(),
    # Kinect v2, Azure Kinect; flying pixels, no shadows. Noise: Fankhauser et al. (2015), 0.1 mm·z^1.5 in the angle and
    # 1.5 − 0.5 z + 0.3 z² = 1.2917 + 0.3·(z − 0.8333)² mm.
    "time_of_flight": DepthSensor(
        s0=0.0012917, s1=0.0003, z0=0.8333, tilt=0.0001, tilt_power=1.5, tilt_from=0.0, lateral=0.3, disparity_step=0.0,
        baseline=0.0, correlation=0.0, grazing=0.10, flying=0.35, dropout=0.001, far=6.0,
    ),
    # RealSense D400: correlated errors z²·0.08 px/(f·B), quanta of 1/32 px, from Intel's tuning guide with f 420 px and
    # B 50 mm.
    "stereo": DepthSensor(
        s0=0.0005, s1=0.08 / (420 * 0.05), z0=0.0, tilt=0.0, disparity_step=1 / 32 / (420 * 0.05), baseline=0.05,
        correlation=3.0, grazing=0.12, dropout=0.004, near=0.3, far=8.0,
    ),
}  # fmt: skip
"""Models of depth sensors by name."""


class SensorNoise:
    """Noise of one camera's RGB-D frames."""

    def __init__(self, sensor: DepthSensor, intrinsics: Intrinsics, seed: int = 0):
        self.sensor = sensor
        self._seed = seed
        self._patches, self._white, self._jitter, self._chance = _tiles(sensor, intrinsics.width, seed)
        self._shift = np.float32(intrinsics.fx * sensor.baseline)
        # Shot noise grows with the square root of the intensity, read noise is constant.
        self._color_sigma = np.sqrt(1.2**2 + 0.035 * np.arange(256)).astype(np.float32)
        depths, angles = np.linspace(0.0, sensor.far, 4096), np.arccos(np.linspace(0.0, 1.0, 1024))
        self._axial = sensor.axial(depths).astype(np.float32)
        self._tilted = (sensor.tilt * np.maximum(depths, 0.05) ** sensor.tilt_power).astype(np.float32)
        steep = np.where(angles >= sensor.tilt_from, angles**2 / np.maximum(np.pi / 2 - angles, 0.05) ** 2, 0.0)
        self._steep = steep.astype(np.float32)
        shares = sensor.flying, sensor.silhouette_loss, sensor.dropout
        self._model = np.array([sensor.disparity_step, sensor.grazing, *shares, sensor.near, sensor.far], np.float32)

    def depth(self, exact: np.ndarray, facing: np.ndarray, number: int) -> np.ndarray:
        """Return depth [H, W] float32 m as the sensor measures it, in whole mm, NaN for no measurement.

        `facing` [H, W] float32 is the cosine of the angle of incidence; the same frame `number` gives the same noise.
        """
        measured = np.empty_like(exact)
        degrade_depth(
            exact, facing, self._axial, self._tilted, self._steep, self._model, self._shift, self._patches, self._white,
            self._jitter, self._chance, self._offsets(number, 0), measured,
        )  # fmt: skip
        return measured

    def color(self, exact: np.ndarray, number: int) -> np.ndarray:
        """Return color [H, W, 3] uint8 with lens blur and imager noise."""
        blurred = cv2.GaussianBlur(exact, (3, 3), 0.55)
        degrade_color(blurred, self._color_sigma, self._white, self._offsets(number, 1))
        return blurred

    def _offsets(self, number: int, purpose: int) -> np.ndarray:
        """Return the frame's start positions in the tiles, [8]."""
        return np.random.default_rng([self._seed, number, purpose]).integers(0, _TILE, 8)


@functools.lru_cache(maxsize=2)
def _tiles(sensor: DepthSensor, width: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return `patches`, `white`, `jitter` and `chance` as in `degrade_depth`, of which frames are cut out."""
    random = np.random.default_rng([seed, 3])
    white = _tile(random, 0.0)
    patches = _tile(random, sensor.correlation) if sensor.correlation > 0 else white
    chance = random.random((_TILE, _TILE), dtype=np.float32)
    jitter = np.clip(np.rint(sensor.lateral * random.standard_normal((_TILE, _TILE, 2))), -9, 9).astype(np.int8)
    # Repeated by the width of an image, so that each row of noise is one slice.
    columns = np.arange(_TILE + width) % _TILE
    return tuple(np.ascontiguousarray(tile[:, columns]) for tile in (patches, white, jitter, chance))


def _tile(random: np.random.Generator, size: float) -> np.ndarray:
    """Return tileable Gaussian noise [1024, 1024] float32 of unit variance, smooth over `size` px."""
    white = random.standard_normal((_TILE, _TILE), dtype=np.float32)
    if size > 0:
        pad = int(4 * size) + 4
        white = cv2.GaussianBlur(np.pad(white, pad, mode="wrap"), (0, 0), size)[pad:-pad, pad:-pad]
        white = (white - white.mean()) / white.std()
    return np.ascontiguousarray(white)
