"""Simulated Azure Kinect libraries, compiled from C, with devices and recordings for them."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from actrec.types import Intrinsics

KINDS = ("device", "capture", "image", "transformation", "playback", "tracker", "body frame")
COLOR, DEPTH, BOTH = 1, 2, 3
NO_ACCESS, BUSY, STARVED = 1, 2, 3
BROWN_CONRADY = 4
FORMATS = {"mjpg": 0, "nv12": 1, "yuy2": 2, "bgra32": 3}
_SOURCES = {"k4a": ("objects.c", "device.c", "transformation.c"), "k4arecord": ("record.c",), "k4abt": ("bodies.c",)}
_JOINT = np.dtype([("position", "<f4", 3), ("orientation", "<f4", 4), ("confidence", "<i4")])
_BODY = np.dtype([("id", "<u4"), ("joints", _JOINT, 32)])


@dataclass
class Shot:
    """One frame of a scene. Color is [H, W, 3] RGB, depth [h, w] meters, people (id, [32, 3] meters, [32] levels)."""

    color: np.ndarray
    depth: np.ndarray
    color_us: int = 0
    depth_us: int = 0
    parts: int = BOTH
    people: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    jpeg: bytes | None = None  # instead of the encoded color


@dataclass
class SimulatedCameraFile:
    """A simulated camera and its scene."""

    color: Intrinsics
    depth: Intrinsics
    to_color: np.ndarray
    shots: list[Shot]
    serial: str = "000123456789"
    color_format: str = "mjpg"
    color_resolution: int = 1
    depth_mode: int = 2
    rate: int = 2
    tracks: int = BOTH
    model: int = BROWN_CONRADY
    imu_to_color: np.ndarray = field(default_factory=lambda: np.eye(3))

    def write(self, path: Path) -> Path:
        """Write a file that the simulated libraries read."""
        serial = self.serial.encode().ljust(32, b"\0")
        header = np.array([FORMATS[self.color_format], self.rate, self.tracks, len(self.shots)], "<i4")
        frames = [self._frame(shot) for shot in self.shots]
        path.write_bytes(b"".join([b"FAKEK4A1", serial, self._calibration(), header.tobytes(), *frames]))
        return path

    def _calibration(self) -> bytes:
        identity = np.concatenate([np.eye(3).ravel(), np.zeros(3)]).astype("<f4")
        extrinsics = np.tile(identity, (4, 4, 1))
        extrinsics[0, 1] = _extrinsics(self.to_color)
        extrinsics[1, 0] = _extrinsics(np.linalg.inv(self.to_color))
        extrinsics[2:, 1, :9] = self.imu_to_color.ravel()  # gyroscope and accelerometer
        cameras = [self._camera(self.depth, identity), self._camera(self.color, extrinsics[0, 1])]
        modes = np.array([self.depth_mode, self.color_resolution], "<i4")
        return b"".join([*cameras, extrinsics.tobytes(), modes.tobytes()])

    def _camera(self, camera: Intrinsics, extrinsics: np.ndarray) -> bytes:
        k1, k2, p1, p2, k3, k4, k5, k6 = [*camera.distortion, *[0.0] * 8][:8]
        lens = [camera.cx, camera.cy, camera.fx, camera.fy, k1, k2, k3, k4, k5, k6, 0, 0, p2, p1, 0]
        kind, size = np.array([self.model, 14], "<i4"), np.array([camera.width, camera.height], "<i4")
        numbers = np.array(lens, "<f4"), size, np.array([1.7], "<f4")
        return b"".join(part.tobytes() for part in (extrinsics, kind, *numbers))

    def _frame(self, shot: Shot) -> bytes:
        color = shot.jpeg if shot.jpeg is not None else self._encoded(shot.color)
        people = np.zeros(len(shot.people), _BODY)
        for row, (number, positions, levels) in zip(people, shot.people, strict=True):
            row["id"] = number
            row["joints"]["position"], row["joints"]["confidence"] = positions * 1000, levels
        stamps = np.array([shot.color_us, shot.depth_us], "<u8")
        numbers = np.array([shot.parts, len(color), len(people)], "<i4")
        depth = np.nan_to_num(np.round(shot.depth * 1000)).astype("<u2")
        return b"".join([stamps.tobytes(), numbers.tobytes(), color, depth.tobytes(), people.tobytes()])

    def _encoded(self, color: np.ndarray) -> bytes:
        if self.color_format == "bgra32":
            return cv2.cvtColor(color, cv2.COLOR_RGB2BGRA).tobytes()
        if self.color_format == "yuy2":
            return cv2.cvtColor(color, cv2.COLOR_RGB2YUV_YUY2).tobytes()
        if self.color_format == "nv12":
            planes, rows = cv2.cvtColor(color, cv2.COLOR_RGB2YUV_I420), len(color)
            return planes[:rows].tobytes() + planes[rows:].reshape(2, -1).T.tobytes()
        return cv2.imencode(".jpg", color[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


class SimulatedSdk:
    """The simulated libraries, with faults that tests switch on."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, sources in _SOURCES.items():
            linked = [] if name == "k4a" else [f"-L{folder}", "-lk4a", "-Wl,-rpath,$ORIGIN"]
            files = [str(Path(__file__).parent / source) for source in sources]
            options = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-Wall", "-Werror"]
            out = str(folder / f"lib{name}.so")
            subprocess.run(["cc", *options, "-o", out, *files, *linked, "-lm", "-lpthread"], check=True)
        self.library, self.body_library = str(folder / "libk4a.so"), str(folder / "libk4abt.so")
        self._k4a: Any = ctypes.CDLL(self.library)
        self._k4a.fake_imu.argtypes = [ctypes.c_uint64, *[ctypes.c_float] * 6]
        self.bodies: Any = ctypes.CDLL(self.body_library)
        self._k4a.fake_push.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            *[ctypes.c_uint64] * 2,
            ctypes.c_int,
            ctypes.c_uint64,
        ]
        self.bodies.fake_bodies_model.restype = ctypes.c_char_p

    def plug(self, path: Path, slot: int = 0) -> None:
        assert self._k4a.fake_plug(slot, str(path).encode()), path

    def unplug(self, slot: int = 0) -> None:
        self._k4a.fake_unplug(slot)

    def trouble(self, kind: int, slot: int = 0) -> None:
        self._k4a.fake_trouble(slot, kind)

    def push(
        self, shot: int, device_us: int, depth_us: int | None = None, parts: int = BOTH, late_ns: int = 0, slot: int = 0
    ) -> None:
        """Add a capture that arrived `late_ns` ago."""
        received = time.monotonic_ns() - late_ns
        depth_us = device_us if depth_us is None else depth_us
        assert self._k4a.fake_push(slot, shot, device_us, depth_us, parts, received), "no room, or not started"

    def move(self, device_us: int, acceleration: np.ndarray, turn: np.ndarray | tuple[float, ...] = (0, 0, 0)) -> None:
        """Add a sample of the inertial sensor, m/s² and rad/s, to the camera's queue or the recording."""
        self._k4a.fake_imu(device_us, *map(float, acceleration), *map(float, turn))

    def configured(self, slot: int = 0) -> dict[str, int]:
        """Return the configuration of the last start."""
        names = ("format", "resolution", "depth_mode", "rate", "synchronized")
        values = {name: self._k4a.fake_configured(slot, i) for i, name in enumerate(names)}
        values["synchronized"] &= 0xFF  # a bool
        return values | {"imu_starts": self._k4a.fake_imu_starts(slot)}

    def live(self) -> dict[str, int]:
        """Return the number of unreleased handles by kind."""
        return {kind: self._k4a.fake_live(i) for i, kind in enumerate(KINDS) if self._k4a.fake_live(i)}

    def made(self, kind: str) -> int:
        return self._k4a.fake_made(KINDS.index(kind))

    def faults(self) -> int:
        """Return the number of uses of invalid handles."""
        return self._k4a.fake_faults()


_BUILT: list[SimulatedSdk] = []


@pytest.fixture(scope="session")
def built_sdk(tmp_path_factory: pytest.TempPathFactory) -> SimulatedSdk:
    if shutil.which("cc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no C compiler: install gcc")
        pytest.skip("no C compiler: install gcc")
    # Once per process: the driver refuses a second libk4a.
    if not _BUILT:
        _BUILT.append(SimulatedSdk(tmp_path_factory.mktemp("libk4a")))
    return _BUILT[0]


@pytest.fixture
def sdk(built_sdk: SimulatedSdk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedSdk]:
    """Return the libraries without a camera; afterwards, check that all handles were released and valid."""
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    faults = built_sdk.faults()
    yield built_sdk
    for slot in range(4):
        built_sdk.unplug(slot)
    built_sdk._k4a.fake_imu_clear()
    built_sdk.bodies.fake_bodies_hold(0)
    built_sdk.bodies.fake_bodies_break(0)
    assert built_sdk.live() == {}
    assert built_sdk.faults() == faults


def _extrinsics(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose[:3, :3].ravel(), pose[:3, 3] * 1000]).astype("<f4")
