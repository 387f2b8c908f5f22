"""Plain video through PyAV: colour, no depth."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from actrec.errors import InputError
from actrec.frames import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.recordings import decoding, intrinsics
from actrec.recordings.base import Recording, RecordingConfig, existing, log

NTU_HFOV_DEG = 84.1
"""Of the Kinect v2's 1920×1080 colour camera, with which NTU RGB+D was recorded."""
_AVI = "avi"
_CUT_S = 1.0
"""A file whose pictures end by more before their stated end is cut off; sound may last a little longer."""
_NTU_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}_rgb")


class VideoRecording(Recording):
    """Plays a video file; `fps` replaces its stamps.

    An NTU RGB+D `_rgb.avi` is turned back from its mirroring, so that the person's left is theirs, and its camera's
    field of view is known. For any other video the intrinsics or `hfov_deg` must be given.

    Args:
        path: The file.
        config: Options.

    Raises:
        DeviceError: There is no such file.
        InputError: It is no video, or its intrinsics are not known.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        ntu = bool(_NTU_NAME.fullmatch(self.path.stem))
        self._mirror = config.mirror == "yes" or (config.mirror == "auto" and ntu)
        with decoding.open_video(self.path) as container:
            stream = container.streams.video[0]
            self._rate = float(stream.average_rate or 0)
            ticks = container.duration  # microseconds; None where the container does not say
            if ticks:
                self._duration = ticks / av.time_base
            else:
                counted = stream.frames and self._rate
                self._duration = stream.frames / self._rate if counted else decoding.length_s(self.path)
            if config.fps and self._rate:
                self._duration *= self._rate / config.fps
            of_azure_kinect = _is_of_azure_kinect(container)
            first = self._image(next(decoding.pictures(self.path, container), None))
        height, width = first.shape[:2]
        if ntu and not (config.intrinsics or config.hfov_deg):
            log.warning("'%s': assuming the Kinect v2's field of view of %g degrees", self.path, NTU_HFOV_DEG)
            self._intrinsics = intrinsics.from_hfov(width, height, NTU_HFOV_DEG)
        else:
            self._intrinsics = intrinsics.resolve(self.path, config, width, height)
        kind = "a video without depth: frames come without it"
        if of_azure_kinect:
            kind = "of an Azure Kinect: its depth comes with driver azure_kinect and its option recording, not here"
        log.warning("'%s' is %s", self.path, kind)

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images."""
        return self._intrinsics

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last, as the container says, or at the rate that was given."""
        return self._duration

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Every frame from `start_s` after the first."""
        with decoding.open_video(self.path) as container:
            seconds, shown = 0.0, 0.0
            for seconds, picture in self._timed(container, start_s):
                if seconds >= start_s - 1e-6:
                    yield RgbdFrame(round(seconds * NANOSECONDS), self._image(picture), None, self._intrinsics)
                shown = _shown(picture)
            if not self.config.fps:
                self._check_end(container, seconds, shown)

    def _timed(self, container: Any, start_s: float) -> Iterator[tuple[float, Any]]:
        """(seconds from the first, picture) of an open file, from `start_s` or somewhat earlier on."""
        stream, rate = container.streams.video[0], self.config.fps or self._rate or 30.0
        if container.format.name == _AVI:  # the stamps that FFmpeg makes up go to and fro where there are B-frames
            for place, picture in decoding.placed_pictures(self.path, container):
                yield place / rate, picture
            return
        stamped = not self.config.fps and stream.time_base
        if start_s > 1.0 and stamped:  # seeks to the key frame before, decodes on from there
            container.seek(round((start_s - 0.5) * av.time_base), backward=True)
        origin = (stream.start_time or 0) * stream.time_base if stream.time_base else 0
        for index, picture in enumerate(decoding.pictures(self.path, container)):
            own = stamped and picture.pts is not None
            yield float(picture.pts * picture.time_base - origin) if own else index / rate, picture

    def _check_end(self, container: Any, seconds: float, shown: float) -> None:
        """Says so where the pictures end long before the file says; FFmpeg takes damage for the end.

        Args:
            container: The open file.
            seconds: From the first picture to the last.
            shown: Seconds for which the last is shown: many, of a slow camera.
        """
        stated = _stated(container)
        if stated > seconds + shown + _CUT_S:
            log.warning(
                "'%s' ends at %.1f s of the %.1f s that it states: it is cut off or damaged there; copy it again",
                self.path,
                seconds,
                stated,
            )

    def _image(self, picture: Any) -> np.ndarray:
        if picture is None:
            raise InputError(f"'{self.path}' holds no frame: it is truncated; copy it again")
        return decoding.rgb(picture, self._mirror)


def _is_of_azure_kinect(container: Any) -> bool:
    """Whether k4arecorder wrote it, by the tags that it leaves on the file or its tracks."""
    return any(tag.upper().startswith("K4A_") for each in (container, *container.streams) for tag in each.metadata)


def _shown(picture: Any) -> float:
    """Seconds for which a picture is shown; 0 where neither file nor PyAV says."""
    duration = getattr(picture, "duration", None)  # older ones have none
    return float(duration * picture.time_base) if duration and picture.time_base else 0.0


def _stated(container: Any) -> float:
    """Seconds that the pictures last by what the file says of itself; 0 where it does not, or an AVI guesses."""
    if container.format.name == _AVI:
        return 0.0
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first picture.
    return max((container.duration or 0) - max(container.start_time or 0, 0), 0) / av.time_base
