"""Decodes a recording ahead on a thread, so that a slow frame does not break the pace."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from actrec.errors import DeviceError, EndOfStream, InputError
from actrec.frames import NANOSECONDS, RgbdFrame
from actrec.recordings.base import Recording

FRAMES_AHEAD = 4
_WAKE_S = 0.1


class StoppedError(Exception):
    """The decoder was stopped while somebody waited for it."""


@dataclass(frozen=True)
class _Item:
    """A decoded frame, what went wrong, or, with neither, the start of another pass."""

    frame: RgbdFrame | None = None
    error: Exception | None = None


class DecodeAhead:
    """Frames of a recording from some time on, pass after pass if it loops. Starts at once.

    Attributes:
        passes: Times that the frames taken so far started over.

    Args:
        recording: What to decode; only this thread reads it until `stop`.
        first_s: Where the first pass starts.
        start_s: Where each further pass starts.
        duration_s: Recorded time of a pass; 0 for all.
        loop: Whether to start over at the end.
    """

    def __init__(self, recording: Recording, first_s: float, start_s: float, duration_s: float, loop: bool):
        self.passes = 0
        self.stopped = threading.Event()
        self._recording = recording
        self._starts = first_s, start_s
        self._duration_ns = round(duration_s * NANOSECONDS)
        self._loop = loop
        self._items: queue.Queue[_Item] = queue.Queue(maxsize=FRAMES_AHEAD)
        self._next: RgbdFrame | None = None
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def peek(self, timeout_s: float) -> RgbdFrame:
        """The next frame, which stays the next one until it is taken.

        Raises:
            EndOfStream: There is none; so says every further call.
            DeviceError: None was decoded within `timeout_s`.
            StoppedError: The decoder was stopped.
            InputError: The recording is corrupt from here on.
        """
        deadline = time.monotonic() + timeout_s
        while self._next is None:
            if self._failed is not None:
                raise self._failed
            try:
                item = self._items.get(timeout=min(_WAKE_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                if self.stopped.is_set():
                    raise StoppedError from None
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"no frame of '{self._recording.path}' within {timeout_s:g} s: its disk or decoder is too slow"
                    ) from None
                continue
            self._next, self._failed = item.frame, item.error
            self.passes += item.frame is None and item.error is None
        return self._next

    def take(self) -> None:
        """The frame last peeked at is done with."""
        self._next = None

    def stop(self) -> None:
        """Ends decoding and wakes whoever waits."""
        self.stopped.set()
        self._thread.join()

    def _run(self) -> None:
        start_s, again = self._starts
        try:
            while True:
                count = 0
                for frame in self._excerpt(start_s):
                    count += 1
                    if not self._put(_Item(frame)):
                        return
                if count == 0:
                    raise InputError(f"'{self._recording.path}' has no frame from {start_s:g} s on")
                if not self._loop:
                    raise EndOfStream(f"'{self._recording.path}' has ended")
                start_s = again
                if not self._put(_Item()):
                    return
        except Exception as error:  # whoever reads the frames raises it
            self._put(_Item(error=error))

    def _excerpt(self, start_s: float) -> Iterator[RgbdFrame]:
        played, last = 0, None
        for frame in self._recording.frames(start_s):
            played += max(0, frame.stamp_ns - last) if last is not None else 0
            if self._duration_ns and played >= self._duration_ns:
                return
            last = frame.stamp_ns
            yield frame

    def _put(self, item: _Item) -> bool:
        while not self.stopped.is_set():
            try:
                self._items.put(item, timeout=_WAKE_S)
                return True
            except queue.Full:
                continue
        return False
