"""Simulated camera: rendered actors with sensor noise and exact ground truth."""

import math
import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.cameras.base import RESET_NS, Camera
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.scene import MAX_ACTORS, CameraPose, Routine, Scene, SceneFrame, performed_scene, scripted_scene
from actrec.types import NANOSECONDS, Hand, Intrinsics, RgbdFrame
from actrec.utils.calibration_files import from_hfov
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream

READ_S = 0.1  # two clocks are read within this time
SMALL = 64, 48  # width and height of an image that compiles the renderer


@dataclass(frozen=True)
class SimulatedConfig:
    """Settings of the simulated camera."""

    width: int = setting(640, "Image width.", unit="px", range=(32, 4096))
    height: int = setting(480, "Image height.", unit="px", range=(32, 4096))
    fps: float = setting(30.0, "Frames per second.", unit="Hz", range=(0.1, 1000))
    hfov: float = setting(62.7, "Horizontal field of view; 62.7° is a Kinect's.", unit="deg", range=(5, 150))
    actions: list[str] = setting(["all"], "Actions, performed in turn; `actrec simulate --list` lists them.")
    pause: float = setting(0.0, "Mean time of waiting between two actions; 0 for 0.5 to 1 s.", unit="s", range=(0, 60))
    side: str = setting("any", "Arm that performs.", choices=("any", "left", "right"))
    actors: int = setting(1, "Number of people in the scene, or of the script's people to show.", range=(0, MAX_ACTORS))
    script: str = setting("", "Skeleton recording to perform instead of actions.")
    sequence: str = setting("", "Name or index of the sequence in a script that holds several.")
    loop: bool = setting(False, "Repeat a script.")
    noise: bool = setting(True, "Add the noise of a real sensor to depth and color.")
    sensor: str = setting(
        "structured_light", "Error model of the depth sensor.", choices=("structured_light", "time_of_flight", "stereo")
    )
    seed: int = setting(0, "Random seed of performances and noise.", range=(0, 2**31 - 1))
    camera_height: float = setting(1.0, "Camera height above the floor (actions only).", unit="m", range=(0.1, 3))
    camera_pitch: float = setting(0.0, "Downward tilt of the camera (actions only).", unit="deg", range=(-85, 85))
    camera_roll: float = setting(
        0.0, "Roll of the camera, clockwise seen from behind (actions only).", unit="deg", range=(-180, 180)
    )
    gravity: bool = setting(True, "State the direction of gravity, as a camera with an accelerometer does.")
    distance: float = setting(2.9, "Distance to the first actor (actions only).", unit="m", range=(1, 8))
    facing: float = setting(
        0.0, "Heading of the actors, left of the direction to the camera (actions only).", unit="deg", range=(-180, 180)
    )
    person: int = setting(0, "Number of the actor; 0 for the default actors (actions only).", range=(0, 1_000_000))
    realtime: bool = setting(True, "Wait for each frame, skip late ones; false delivers them as fast as they are read.")
    duration: float = setting(0.0, "End after this time; 0 for never.", unit="s", range=(0, 1e9))
    start_stamp_ns: int = setting(-1, "First stamp; -1 for the system time.", unit="ns", range=(-1, 2**63 - 1))
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class SimulatedCamera(Camera):
    """Camera in a rendered scene; options: `SimulatedConfig`.

    `frame.skeletons` has the exact joints ("actor_1", …); hidden joints have score 0.5.

    Attributes:
        scene: The rendered scene; None until open.
        snapshot: Last frame without noise, with exact depth, people and joints; None before the first read.

    Raises:
        ConfigError: An option is unknown or out of range, or an action is unknown.
    """

    config_class: ClassVar[type] = SimulatedConfig
    live = False

    def __init__(self, **options: Any):
        self.config: SimulatedConfig = build(SimulatedConfig, options)
        self.paced = self.config.realtime
        c = self.config
        if c.sequence and not c.script:
            raise ConfigError("SimulatedConfig.sequence needs a script: set script=FILE as well")
        if not c.script:
            Routine(c.actions)  # raises for an unknown action, before opening
        self._intrinsics = from_hfov(c.width, c.height, c.hfov)
        self.scene: Scene | None = None
        self.snapshot: SceneFrame | None = None
        self._noise: SensorNoise | None = None
        self._closed = threading.Event()
        self._start_ns, self._start_time, self._next, self._clock_ns = 0, 0.0, 0, 0

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of color and depth, without distortion."""
        return self._intrinsics

    @property
    def ends(self) -> bool:
        """Whether a duration, or a script that is not repeated, is set."""
        return self.config.duration > 0 or bool(self.config.script and not self.config.loop)

    def prepare(self) -> None:
        """Compile the renderer (15 s), or load it from the cache, and draw the room, unless a script has its own."""
        if self.config.script:
            width, height = SMALL
            settings = {**vars(self.config), "script": "", "sequence": "", "width": width, "height": height}
            SimulatedCamera(**settings).prepare()
            return
        self._create_noise()
        self._render(self._create_scene(), 0)

    def open(self) -> None:
        """Build the scene and start the clock."""
        c = self.config
        self.scene = self._create_scene()
        self._create_noise()
        self._render(self.scene, 0)  # compiles before the clock starts, unless `prepare` did
        self._closed.clear()
        self._clock_ns, self._start_time = _clock_ns(), time.monotonic()
        self._start_ns = c.start_stamp_ns
        if self._start_ns < 0:
            self._start_ns = self._clock_ns + round(self._start_time * NANOSECONDS)
        self._next, self.skipped, self.snapshot = 0, 0, None

    def close(self) -> None:
        """Stop the stream and wake a reader that waits."""
        self._closed.set()
        self.scene = self.snapshot = None

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame; with `realtime`, wait until it is due and skip late ones."""
        scene, c = self._opened(), self.config
        number = self._next
        if c.realtime:  # the newest frame that is due, or the next one
            number = max(number, int((time.monotonic() - self._start_time) * c.fps))
            self._follow_clock()
        elapsed = number / c.fps
        # Margin for rounding: 0.1 · 30 may be less than 3.
        if elapsed >= min(scene.duration, c.duration or math.inf) - 1e-9:
            raise EndOfStream(f"the simulated camera has played {elapsed:.2f} s")
        frame, snapshot = self._render(scene, number)
        wait = self._start_time + elapsed - time.monotonic() if c.realtime else 0
        if wait > timeout_s:
            self._closed.wait(timeout_s)
            raise DeviceError(f"simulated camera: no frame within {timeout_s} s; use a timeout of {1 / c.fps:g} s")
        if wait > 0 and self._closed.wait(wait):
            raise DeviceError("the simulated camera was closed during a read")
        self.skipped += number - self._next
        self._next, self.snapshot = number + 1, snapshot
        return frame

    def _follow_clock(self) -> None:
        """Let the stamps follow the system's clock if it was set, as `base.DeviceClock` does."""
        step_ns = _clock_ns() - self._clock_ns
        if self.config.start_stamp_ns < 0 and abs(step_ns) > RESET_NS:
            self._start_ns += step_ns
            self._clock_ns += step_ns

    def actions_at(self, stamp_ns: int) -> dict[str, str]:
        """Return the name of each actor's action at a stamp, by body id ("actor_1")."""
        seconds = max(stamp_ns - self._start_ns, 0) / NANOSECONDS
        return {f"actor_{i + 1}": actor.label(seconds) for i, actor in enumerate(self._opened().actors)}

    def hands(self) -> list[Hand]:
        """Return the exact finger joints (`hand_21`) of all people in the last frame, left hand before right.

        Raises:
            DeviceError: No frame was read yet.
        """
        return self._opened().hands(self._last())

    def scene_flow(self, dt: float) -> np.ndarray:
        """Return [H, W, 3] exact velocities, m/s, of the last frame's surfaces over the following `dt` seconds.

        Raises:
            DeviceError: No frame was read yet.
        """
        return self._opened().scene_flow(self._last(), dt)

    def _create_scene(self) -> Scene:
        c, intrinsics = self.config, self._intrinsics
        if c.script:
            return scripted_scene(intrinsics, c.script, c.sequence, actors=c.actors, loop=c.loop, seed=c.seed)
        return performed_scene(
            intrinsics,
            c.actions,
            c.actors,
            seed=c.seed,
            side=c.side,
            camera=CameraPose(c.camera_height, math.radians(c.camera_pitch), math.radians(c.camera_roll)),
            distance=c.distance,
            person=c.person,
            facing=math.radians(c.facing),
            pause=c.pause,
        )

    def _create_noise(self) -> None:
        c = self.config
        self._noise = SensorNoise(SENSORS[c.sensor], self._intrinsics, c.seed) if c.noise else None

    def _last(self) -> SceneFrame:
        if self.snapshot is None:
            raise DeviceError("the simulated camera has no frame yet: call read() first")
        return self.snapshot

    def _opened(self) -> Scene:
        if self.scene is None:
            raise DeviceError("the simulated camera is not open: call open() or use a with statement")
        return self.scene

    def _render(self, scene: Scene, number: int) -> tuple[RgbdFrame, SceneFrame]:
        elapsed = number / self.config.fps
        snapshot = scene.at(elapsed)
        color, depth = snapshot.rendering.color, snapshot.rendering.depth
        if self._noise is not None:
            color = self._noise.color(color, number)
            depth = self._noise.depth(depth, snapshot.rendering.facing, number)
        stamp = self._start_ns + round(elapsed * NANOSECONDS)
        up = scene.camera.up if self.config.gravity else None
        return RgbdFrame(stamp, color, depth, self._intrinsics, self.config.frame_id, snapshot.bodies, up), snapshot


def _clock_ns() -> int:
    """Return the system's time minus the steady clock's, ns: it changes if the clock is set."""
    for _ in range(3):  # again if this process was stopped between two of the reads
        before, system_ns, now = time.monotonic(), time.time_ns(), time.monotonic()
        if now - before < READ_S:
            break
    return system_ns - round(now * NANOSECONDS)
