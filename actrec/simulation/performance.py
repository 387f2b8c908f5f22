"""What an actor does when: an endless, repeatable sequence of actions with pauses between them."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from actrec.errors import ConfigError
from actrec.simulation import actions
from actrec.simulation.actions import ACTIONS, Action
from actrec.simulation.motion import Restlessness, Style
from actrec.simulation.posture import Physique, pose
from actrec.simulation.rig import ActorPose

CYCLE = ("wave", "point", "sit_down", "stand_up", "pick_up", "throw", "walk", "drink")
"""What "all" stands for."""
_PAUSE = (0.5, 1.0)  # seconds of idling between actions
_SIZES, _TURNS, _SPEEDS = (0.85, 1.0, 1.1), (-0.3, 0.0, 0.3), (0.9, 1.15)


@dataclass(frozen=True)
class Segment:
    """One action from `start` to `end`, seconds."""

    action: Action
    label: str
    start: float
    end: float
    style: Style


class Performance:
    """Performs actions in turn, for ever.

    Args:
        names: The actions, or "all" among them for every one in `CYCLE`. What needs another posture first (sitting
            down before standing
            up) is inserted under its own label.
        seed: Of sides, speeds, pauses and small movements.
        side: The acting side, "left", "right", or "" for either in turn.
        room: Factor on how far the actor walks.
        physique: The actor's bones; by default those of the reference stature.
        tempo: Factor on the speed of all that the actor does.

    Raises:
        ConfigError: An action is unknown or there is none; the known ones are listed.
    """

    def __init__(
        self,
        names: tuple[str, ...] = ("all",),
        seed: int = 0,
        side: str = "",
        room: float = 1.0,
        physique: Physique | None = None,
        tempo: float = 1.0,
    ):
        cycle = [entry for name in names for entry in (CYCLE if name == "all" else (name,))]
        if not cycle:
            raise ConfigError(f"no action to perform; known: all, {', '.join(sorted(ACTIONS))}")
        self._cycle = [actions.get(name) for name in cycle]
        self._random = np.random.default_rng([seed, 5])
        self._side, self._room, self._tempo = side, room, tempo
        self._restless = Restlessness(seed)
        self.physique = physique or Physique()
        self._state = self._cycle[0].start
        self._segments: list[Segment] = []
        self._ends: list[float] = []
        self._next = 0

    def segment(self, time: float) -> Segment:
        """What is being done `time` seconds after the start."""
        while not self._ends or self._ends[-1] <= time:
            self._append_next()
        return self._segments[bisect_right(self._ends, time)]

    def pose(self, time: float) -> ActorPose:
        """The pose in the actor's place frame (left, up, forward)."""
        segment = self.segment(time)
        vector = segment.action.at(time - segment.start, segment.style)
        return pose(self._restless.add(vector, time), self.physique)

    def _append_next(self) -> None:
        action = self._cycle[self._next % len(self._cycle)]
        if action.start != self._state:
            action = ACTIONS["stand_up" if self._state == "seated" else "sit_down"]
        else:
            self._next += 1
        self._append(action)
        self._append(ACTIONS["idle" if self._state == "standing" else "idle_seated"])

    def _append(self, action: Action) -> None:
        random, idle = self._random, action.name.startswith("idle")
        size = self._room if action.name == "walk" else float(random.choice(_SIZES))
        style = Style(
            self._side or str(random.choice(["left", "right"])),
            float(random.uniform(*_SPEEDS)) * self._tempo,
            size,
            float(random.choice(_TURNS)),
        )
        start = self._ends[-1] if self._ends else 0.0
        seconds = float(random.uniform(*_PAUSE)) if idle else action.duration(style)
        self._ends.append(start + seconds)
        self._segments.append(Segment(action, "idle" if idle else action.name, start, start + seconds, style))
        self._state = action.end
