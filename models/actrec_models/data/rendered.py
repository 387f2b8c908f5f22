"""Clips of the simulated camera: a dataset of procedural actors.

The dataset needs no files: color, depth, scene flow, bodies and hands take some milliseconds a frame. It tests training
with images and flow end to end. Its movements are procedural and repetitive: accuracy on these clips shows that a
network, its inputs and its training work, and nothing about people.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from actrec import __version__
from actrec.datasets.base import Clip, Entry, LazyStreams, Source
from actrec.simulation.actions import ACTIONS, CYCLE, Performance, Segment
from actrec.simulation.actor import hand_joints
from actrec.simulation.appearance import cast_member
from actrec.simulation.noise import SENSORS, SensorNoise
from actrec.simulation.renderer import furnished_room
from actrec.simulation.scene import (
    CameraPose,
    ProceduralActor,
    Scene,
    SceneFrame,
    stool_place,
)
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import config
from actrec.utils.camera_model import project
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import motion_at_joints

_BEHIND = 1.5  # meters from the actor's place to the wall
_LEAD_S, _TAIL_S = 0.4, 0.3  # of idling, at most, before and after the action


class View(NamedTuple):
    """A camera pose: the actor's yaw to its left (deg), height (m), downward pitch (deg), distance to the actor (m)."""

    facing: float
    height: float
    pitch: float
    distance: float


VIEWS = (View(-35.0, 0.85, -2.0, 2.8), View(35.0, 1.45, 9.0, 3.2), View(0.0, 1.1, 2.0, 2.95))
"""Views 1, 2 and 3; split "cross_view" tests on the last one."""


@dataclass(frozen=True)
class RenderedConfig:
    """Options of the rendered dataset: by default 384 clips, of which 240 (cross_actor) or 256 (cross_view) train."""

    width: int = setting(160, "width of the images", unit="px", range=(64, 1920))
    height: int = setting(120, "height of the images", unit="px", range=(48, 1080))
    hfov: float = setting(62.7, "horizontal field of view", unit="deg", range=(20, 120))
    fps: float = setting(15.0, "frames a second", unit="Hz", range=(2, 120))
    actors: int = setting(8, "people, numbers 1, 2, … of actrec.simulation.appearance", range=(2, 1000))
    held_out: int = setting(3, "of these, the last so many are split cross_actor's test part", range=(1, 999))
    actions: list = setting(["all"], f"classes: all, or some of {', '.join(CYCLE)}")
    takes: int = setting(2, "clips of each action, actor and view", range=(1, 100))
    flow_shrink: int = setting(2, "so many columns and rows of the flow are averaged to one", range=(1, 16))
    noise: bool = setting(True, "degrade color and depth as a real sensor does")
    sensor: str = setting("structured_light", "error model of the depth sensor", choices=tuple(SENSORS))
    seed: int = setting(1, "of performances, rooms and noise", range=(0, 2**31 - 1))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the actions; raises ConfigError if one is unknown or a duplicate."""
        names = CYCLE if self.actions == ["all"] else tuple(self.actions)
        if not names or not set(names) <= set(CYCLE) or len(set(names)) < len(names):
            given = ", ".join(map(str, names)) or "empty"
            raise ConfigError(f"RenderedConfig.actions is {given}; choose all, or from {', '.join(CYCLE)}, each once")
        return names


class RenderedItem:
    """One clip of the dataset, determined by the options and the entry; stamps [T] start at zero."""

    def __init__(self, options: RenderedConfig, entry: Entry):
        try:
            subject, view, take = (int(entry.meta[key]) for key in ("subject", "view", "take"))
            self._view, name = VIEWS[view - 1], options.classes[entry.label]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"'{entry.name}' is no item of the rendered dataset: {dict(entry.meta)}") from error
        self.options, self._who = options, cast_member(subject)
        states = np.random.SeedSequence([options.seed, CYCLE.index(name), subject, view, take]).generate_state(4)
        self._seed, self._room_seed, self._noise_seed, chance = (int(state) for state in states)
        width, height, focal = options.width, options.height, options.width / 2 / np.tan(np.radians(options.hfov) / 2)
        self.intrinsics = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
        self._pose = CameraPose(self._view.height, float(np.radians(self._view.pitch)))
        self._place, self._facing = (0.0, self._view.distance), float(np.radians(self._view.facing))
        self._actor, action = self._performer(name)
        self._sits = "seated" in (action.action.start, action.action.end)
        lead, tail = np.random.default_rng(chance).random(2) * (_LEAD_S, _TAIL_S)
        start = action.start - float(lead)
        ticks = np.arange(max(2, int((action.end + float(tail) - start) * options.fps) + 1))
        self._times = start + ticks / options.fps
        self.stamps_ns = np.round(ticks / options.fps * NANOSECONDS).astype(np.int64)

    def _performer(self, name: str) -> tuple[ProceduralActor, Segment]:
        """Return the actor and the segment of the action, which follows a short idle phase in its start posture."""
        before = "idle" if ACTIONS[name].start == "standing" else "idle_seated"
        played = Performance((before, name), self._seed, physique=self._who.appearance, tempo=self._who.tempo)
        segment = played.segment(0.0)
        while segment.action.name != name:
            segment = played.segment(segment.end)
        return ProceduralActor(played, self._who.appearance, self._pose, self._place, self._facing), segment

    @cached_property
    def scene(self) -> Scene:
        """Return the actor in its room."""
        look = furnished_room(back=self._view.distance + _BEHIND, seed=self._room_seed)
        stools = [stool_place(self._place, self._facing, self._who.appearance.stature)] if self._sits else []
        return Scene([self._actor], self.intrinsics, self._pose, look, stools)

    @cached_property
    def bodies(self) -> np.ndarray:
        """Return the exact joints [1, T, 25, 3] in m, including occluded ones."""
        return np.stack([self._actor.pose(time).joints for time in self._times]).astype(np.float32)[None]

    @property
    def streams(self) -> Mapping[str, Callable[[], np.ndarray]]:
        """Return the function that renders each stream; there is no face."""
        return {
            "pixels": lambda: project(self.bodies, self.intrinsics),
            "hands": self.hands,
            "hand_pixels": lambda: project(self.hands(), self.intrinsics),
            "size": lambda: np.array([self.options.width, self.options.height], np.float32),
            "color": self.color,
            "flow": self.flow,
            "motion": self.motion,
        }

    def hands(self) -> np.ndarray:
        """Return the exact joints [1, T, 2, 21, 3] of both hands in m."""
        length = self._who.appearance.hand_length
        return np.stack([hand_joints(self._actor.pose(time), length) for time in self._times]).astype(np.float32)[None]

    def color(self, numbers: Iterable[int] | None = None) -> np.ndarray:
        """Return color [T, H, W, 3] uint8, of all frames or of the frames `numbers`."""
        wanted = range(len(self._times)) if numbers is None else numbers
        return np.stack([self._seen(int(number))[0] for number in wanted])

    def flow(self, numbers: Iterable[int] | None = None) -> np.ndarray:
        """Return scene flow [T, h, w, 3] float16 m/s, reduced by `flow_shrink`, of all frames or of `numbers`."""
        wanted = range(len(self._times)) if numbers is None else numbers
        size = self.options.width // self.options.flow_shrink, self.options.height // self.options.flow_shrink
        fields = (self._field(int(number)) for number in wanted)
        return np.stack([cv2.resize(field, size, interpolation=cv2.INTER_AREA) for field in fields]).astype(np.float16)

    def motion(self) -> np.ndarray:
        """Return the optical flow [1, T, 25, 2] at the joints, px/s."""
        size, pixels = (self.options.width, self.options.height), project(self.bodies, self.intrinsics)
        places = enumerate(zip(self.bodies[0], pixels[0], strict=True))
        moved = [motion_at_joints(self._field(t), joints, px, size, self.intrinsics) for t, (joints, px) in places]
        return np.stack(moved)[None]

    def frames(self) -> Iterator[RgbdFrame]:
        """Yield the camera frames with exact skeletons."""
        for number, stamp in enumerate(self.stamps_ns):
            color, depth, shown = self._seen(number)
            yield RgbdFrame(int(stamp), color, depth, self.intrinsics, skeletons=shown.bodies)

    def _seen(self, number: int) -> tuple[np.ndarray, np.ndarray, SceneFrame]:
        """Return color, depth and the exact snapshot of one frame."""
        shown = self.scene.at(float(self._times[0] + number / self.options.fps))
        color, depth = shown.rendering.color, shown.rendering.depth
        if self.options.noise:
            color, depth = self._noise.color(color, number), self._noise.depth(depth, shown.rendering.facing, number)
        return color, depth, shown

    def _field(self, number: int) -> np.ndarray:
        """Return the scene flow [H, W, 3] m/s from one frame to the next."""
        return self.scene.scene_flow(self.scene.at(float(self._times[number])), 1 / self.options.fps)

    @cached_property
    def _noise(self) -> SensorNoise:
        return SensorNoise(SENSORS[self.options.sensor], self.intrinsics, self._noise_seed)


class RenderedRgbd(Source):
    """Clips of the simulated camera, which test the training machinery and say nothing about people.

    Eight actions by actors of different sizes, proportions, clothes and tempo, from three views, in different rooms.
    Split "cross_actor" tests on unseen actors, "cross_view" on an unseen view. The root need not exist; the options are
    fields of `RenderedConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
    """

    splits: ClassVar = ("cross_actor", "cross_view")
    caveat: ClassVar = (
        "A test of the machinery on clips that the simulated camera rendered: it says nothing about people."
    )
    has_files: ClassVar = False
    license: ClassVar = "none needed: the clips are rendered by this program"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(RenderedConfig, options)
        self.classes = self.config.classes
        if self.config.held_out >= self.config.actors:
            raise ConfigError(
                f"RenderedConfig.held_out is {self.config.held_out} of {self.config.actors} actors: leave one to train"
            )

    def entries(self) -> list[Entry]:
        """Return every item, sorted by action, actor and view."""
        c, made = self.config, []
        numbers = range(1, c.actors + 1), range(1, len(VIEWS) + 1), range(1, c.takes + 1)
        for label, subject, view, take in product(range(len(self.classes)), *numbers):
            meta = {"subject": subject, "view": view, "take": take}
            made.append(Entry(f"{self.classes[label]}_p{subject}_v{view}_t{take}", label, meta))
        return made

    def read(self, entry: Entry) -> Clip:
        """Return the clip of an item; all streams are rendered on access."""
        shown = RenderedItem(self.config, entry)
        images = {"color": shown.color, "flow": shown.flow}
        return Clip(entry.name, entry.label, shown.stamps_ns, shown.bodies, LazyStreams(shown.streams, images))

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        if split == "cross_view":
            return "test" if entry.meta["view"] == len(VIEWS) else "train"
        return "test" if int(entry.meta["subject"]) > self.config.actors - self.config.held_out else "train"

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the camera frames; `skeletons` are exact."""
        return RenderedItem(self.config, entry).frames()

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of the options, the version and the names of the items."""
        parts = [__version__, *self.classes, *map(str, dataclasses.astuple(self.config)), *(e.name for e in entries)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
