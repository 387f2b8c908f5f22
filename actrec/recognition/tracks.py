"""The bodies that a recognizer follows: a window of joints each, and what else its model takes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.inference.session import Session, body_layout
from actrec.recognition import streams
from actrec.recognition.labels import Counts, RecognitionConfig
from actrec.recognition.streams import Observations, Seen
from actrec.skeleton.conversions import CANONICAL
from actrec.skeleton.layouts import HANDS
from actrec.skeleton.windows import Window, sample_stamps
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import PackageError


@dataclass
class Track:
    """One body that is followed."""

    window: Window
    last_seen_ns: int = 0
    judged_ns: int | None = None
    smoothed: np.ndarray | None = None
    smoothed_ns: int = 0


class Followed:
    """Bodies and their windows, for one model. Not thread-safe.

    Args:
        session: The model.
        config: How many bodies, and when one is lost.
        counts: Where restarts and bodies left out are counted.

    Attributes:
        layout: What the model takes the joints in.
        tracks: By body id.
        others: What is seen beside joints.

    Raises:
        PackageError: The model takes another layout than kinect_v2_25 or a hand's, or whole pictures.
    """

    def __init__(self, session: Session, config: RecognitionConfig, counts: Counts):
        self._package, self._config, self._counts = session.package, config, counts
        self.layout = body_layout(session.package)
        if self.layout not in (CANONICAL, *HANDS):
            raise PackageError(
                f"model {session.package.name} takes {self.layout} but live skeletons are {CANONICAL}: train it so"
            )
        self.others = Observations(session, config.max_gap_s, config.stream_timeout_s)
        self.tracks: dict[str, Track] = {}

    @property
    def subject(self) -> str:
        """The stream whose frames are labeled: "bodies", or "hands" for a model of hands."""
        return "hands" if self.layout in HANDS else "bodies"

    def read(self, bodies: Sequence[Body]) -> dict[str, Seen]:
        """The bodies, or hands, of a frame as the model takes them; raises as `by_id` does."""
        return streams.by_id(bodies, self.layout, self.others.needs_pixels)

    def succeed(self, before: "Followed", present: Sequence[str]) -> None:
        """Takes over the bodies of another model, with windows that start anew.

        Args:
            before: What was used so far.
            present: Bodies of the newest frame, if nobody has judged it: it is this model's then.
        """
        self.others.size = before.others.size
        for body_id, old in before.tracks.items():
            track = self._follow(body_id)
            track.last_seen_ns = old.last_seen_ns
            if body_id in present and self.layout == before.layout:
                track.window.add(old.window.end_ns, old.window.newest)

    def see(self, stamp_ns: int, found: dict[str, Seen]) -> list[str]:
        """Takes a frame in.

        Returns:
            The ids of the bodies in it that are followed.
        """
        chosen = self._choose(found)
        for body_id in chosen:
            track = self.tracks.get(body_id) or self._follow(body_id)
            if track.window.add(stamp_ns, found[body_id].positions):
                self._counts.restarts += 1
                track.smoothed = None
                self.others.follow(body_id)
            track.last_seen_ns = stamp_ns
        self.others.add_skeletons(stamp_ns, found)
        return [body_id for body_id in self.tracks if body_id in chosen]

    def _choose(self, found: dict[str, Seen]) -> list[str]:
        """Ids to follow: those known already, then newcomers from near to far while there is room."""
        known = [body_id for body_id in found if body_id in self.tracks]
        new = sorted(
            (b for b in found if b not in self.tracks), key=lambda b: float(np.nanmedian(found[b].positions[:, 2]))
        )
        room = max(self._config.max_bodies - len(self.tracks), 0)
        self._counts.left_out += len(new[room:])
        return known + new[:room]

    def _follow(self, body_id: str) -> Track:
        window = self._package.window
        self.others.follow(body_id)
        self.tracks[body_id] = Track(Window(window.seconds, window.frames, self._config.max_gap_s))
        return self.tracks[body_id]

    def drop_lost(self, stamp_ns: int, found: dict[str, Seen]) -> None:
        """Forgets the bodies that have been unseen for too long."""
        limit = stamp_ns - int(self._config.lost_after_s * NANOSECONDS)
        lost = [b for b, track in self.tracks.items() if b not in found and track.last_seen_ns <= limit]
        for body_id in lost:
            del self.tracks[body_id]
            self.others.drop(body_id)

    def rewind(self, stamp_ns: int) -> None:
        """Forgets all windows because time jumped back."""
        self._counts.restarts += 1
        self.tracks.clear()
        self.others.rewind(stamp_ns)

    def young(self, body_id: str) -> bool:
        """Whether a body has not been seen for long enough."""
        window = self.tracks[body_id].window
        return window.duration_s < min(self._config.min_seconds, window.seconds) - 1e-6

    def clips(self, ready: Sequence[str], stamp_ns: int) -> list[dict[str, Any]]:
        """One clip [M, T, V, 3] a body, itself first, then those nearest to it.

        Args:
            ready: The bodies to label, all of them in the newest frame.
            stamp_ns: That frame's stamp, at which the windows end.
        """
        count, window = self._package.bodies, self._package.window
        needed = dict.fromkeys([*ready, *(self._about(stamp_ns) if count > 1 and ready else ())])
        joints = {body_id: self.tracks[body_id].window.positions(stamp_ns) for body_id in needed}
        centers = {body_id: np.nanmedian(clip[-1], axis=0) for body_id, clip in joints.items()} if count > 1 else {}
        wanted = sample_stamps(stamp_ns, window.seconds, window.frames)
        clips = []
        for body_id in ready:
            others = sorted((b for b in centers if b != body_id), key=lambda b: _distance(centers[b], centers[body_id]))
            chosen = [body_id, *others[: count - 1]]
            starts = [self.tracks[b].window.start_ns for b in chosen]
            # Before a body was first seen its first pose is held, and so is all else; who came later was not there.
            stamps = [np.maximum(wanted, min(starts[0], start)) for start in starts]
            seen = zip([joints[b] for b in chosen], starts, stamps, strict=True)
            bodies = [self._as_seen(*of_body) for of_body in seen]
            clips.append({"bodies": np.stack(bodies), **self.others.clip(chosen, stamps)})
        return clips

    def _about(self, stamp_ns: int) -> list[str]:
        """The bodies that are seen, or were a moment ago: one that is missed in a frame has not gone."""
        limit = stamp_ns - int(self._config.max_gap_s * NANOSECONDS)
        return [b for b, track in self.tracks.items() if len(track.window) and track.window.end_ns >= limit]

    def _as_seen(self, joints: np.ndarray, start_ns: int, stamps_ns: np.ndarray) -> np.ndarray:
        """Joints [T, V, 3] at `stamps_ns`, missing where that is long before their body was first seen."""
        early = start_ns - stamps_ns > self._config.max_gap_s * NANOSECONDS
        return np.where(early[:, None, None], np.float32(np.nan), joints) if early.any() else joints


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b)) if np.isfinite([a, b]).all() else math.inf
