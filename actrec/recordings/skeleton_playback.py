"""A skeleton file as a recording: frames of joints alone."""

from collections.abc import Iterator
from pathlib import Path

from actrec.recordings import base
from actrec.recordings.base import Recording, RecordingConfig, existing
from actrec.recordings.skeleton_files import open_sequence
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame

KINECT_V1 = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)

KINECT_V2_COLOR = Intrinsics(1920, 1080, 1060.0, 1060.0, 959.5, 539.5)
"""Nominal: the joints and pixels of the NTU files at hand agree on focal lengths of 1054 to 1063 px."""


class SkeletonRecording(Recording):
    """Plays a skeleton file: frames with `color` and `depth` None and the bodies in `skeletons`.

    Args:
        path: The file.
        config: Options; `sequence` chooses one of several, `fps` replaces the dataset's rate.

    Raises:
        DeviceError, ConfigError, InputError: As `open_sequence`.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        self.sequence = open_sequence(self.path, config.sequence or None, config.fps)
        nominal = KINECT_V1 if self.sequence.meta["format"] in ("nucla", "utd_mhad") else KINECT_V2_COLOR
        given = config.intrinsics or config.hfov_deg
        size = nominal.width, nominal.height
        self._intrinsics = base.resolve(self.path, config, *size) if given else nominal

    @property
    def intrinsics(self) -> Intrinsics:
        """The option's, or the nominal ones of the Kinect that the format is of."""
        return self._intrinsics

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last."""
        stamps = self.sequence.stamps_ns
        return float(stamps[-1] - stamps[0]) / NANOSECONDS if len(stamps) else 0.0

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Every frame from `start_s` after the first; a frame with nobody in it comes with no skeletons."""
        stamps = self.sequence.stamps_ns
        for index, stamp in enumerate(stamps):
            if stamp - stamps[0] >= round(start_s * NANOSECONDS):
                yield RgbdFrame(int(stamp), None, None, self._intrinsics, skeletons=self.sequence.bodies_at(index))
