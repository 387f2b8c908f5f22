"""Skeleton files of every known format, as sequences and as recordings of joints alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actrec.recordings import Recording, RecordingConfig, existing_path, resolve_nominal_intrinsics, skeleton_format
from actrec.skeleton.layouts import CANONICAL
from actrec.skeleton.sequence import TRACKED_SCORES, SkeletonSequence, from_kinect, read_text
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.registry import Registry

FORMATS = Registry(
    "skeleton format",
    {
        "ntu": "actrec.datasets.ntu.skeletons:read_ntu_skeleton",
        "nucla_json": "actrec.datasets.nucla:read_nucla_json",
        "nucla_npz": "actrec.datasets.nucla:read_nucla_npz",
        "utd_mhad_mat": "actrec.datasets.utd_mhad:read_utd_mhad_mat",
        "utd_mhad_npz": "actrec.datasets.utd_mhad:read_utd_mhad_npz",
        "kinect_v2_csv": "actrec.recordings.skeleton_files:read_kinect_csv",
        "bandai_namco_npz": "actrec.datasets.bandai_namco:read_bandai_namco_npz",
        "cad60_npz": "actrec.datasets.cad60:read_cad60_npz",
        "hdm05_npz": "actrec.datasets.hdm05:read_hdm05_npz",
        "kard_npz": "actrec.datasets.kard:read_kard_npz",
        "kinder_gator_npz": "actrec.datasets.kinder_gator:read_kinder_gator_npz",
        "bvh": "actrec.recordings.motion_capture:read_bvh",
        "amc": "actrec.recordings.motion_capture:read_amc",
        "npz": "actrec.recordings.skeleton_npz:read_skeleton_npz",
    },
    install={"scipy": "pip install scipy"},
)

KINECT_V2_COLOR = Intrinsics(1920, 1080, 1060.0, 1060.0, 959.5, 539.5)
"""Nominal values: joints and pixels of NTU files give focal lengths of 1054 to 1063 px."""

_TICK_NS = 100  # unit of the Kinect's relative time; frames at 30 Hz lie 330,000 apart
_MAX_TICKS = 2**53  # 28 years
_COLUMNS = 1 + 25 * 4


class SkeletonRecording(Recording):
    """Playback of a skeleton file: frames with `color` and `depth` None and the bodies in `skeletons`.

    `sequence` selects one of several sequences, `fps` replaces the dataset's frame rate; raises as `open_sequence`.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing_path(path), config)
        self.sequence = open_sequence(self.path, config.sequence or None, config.fps)
        if self.sequence.up is not None:
            self._mount = None  # its joints may be leveled
        stamps = self.sequence.stamps_ns
        self.duration_s = float(stamps[-1] - stamps[0]) / NANOSECONDS if len(stamps) else 0.0
        nominal = KINECT_V2_COLOR if self.sequence.meta["format"] in ("ntu", "kinect_v2_csv") else KINECT_V1
        self.intrinsics = resolve_nominal_intrinsics(self.path, config, nominal)

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        stamps, up = self.sequence.stamps_ns, self.sequence.up
        for index, stamp in enumerate(stamps):
            if stamp - stamps[0] >= round(start_s * NANOSECONDS):
                bodies = self.sequence.bodies_at(index)
                yield RgbdFrame(int(stamp), None, None, self.intrinsics, skeletons=bodies, up=up)


def open_sequences(path: str | Path, fps: float = 0.0) -> list[SkeletonSequence]:
    """Return every sequence in a skeleton file; `fps` replaces the dataset's own rate in a format without stamps.

    Raises:
        DeviceError: The file does not exist.
        InputError: The file is corrupt or of no known format.
    """
    path = Path(path)
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    name = skeleton_format(path)
    if name is None:
        own = "; your own .npz needs arrays positions, layout and fps" if path.suffix.lower() == ".npz" else ""
        raise InputError(f"'{path}' is not a skeleton file; known formats: {', '.join(FORMATS.names())}{own}")
    options = {"fps": float(fps)} if fps and name not in ("kinect_v2_csv", "bvh") else {}
    result = FORMATS.create(name, path=path, **options)
    return result if isinstance(result, list) else [result]


def open_sequence(
    path: str | Path, name: str | int | None = None, fps: float = 0.0, hands: bool = False
) -> SkeletonSequence:
    """Return one sequence of a skeleton file.

    Args:
        path: The file.
        name: Name of the sequence ("a01_s01_e00_v01"), or its index from 0 (also as a string). None is allowed for a
            file with a single sequence.
        fps: As for `open_sequences`.
        hands: Whether it may hold hands instead of bodies.

    Raises:
        ConfigError: No such sequence, or the file has several and `name` is None.
        DeviceError, InputError: As `open_sequences`; or it holds hands.
    """
    sequences = open_sequences(path, fps)
    if not hands and sequences and sequences[0].layout != CANONICAL:
        raise InputError(
            f"'{path}' holds hands ({sequences[0].layout}), which are read by `actrec train` alone; give bodies"
        )
    if name is None and len(sequences) == 1:
        return sequences[0]
    if name is None:
        raise ConfigError(
            f"'{path}' holds {len(sequences)} sequences; choose one by name ('{sequences[0].name}' … "
            f"'{sequences[-1].name}') or by index (0 … {len(sequences) - 1})"
        )
    known = {str(index): sequence for index, sequence in enumerate(sequences)}
    known |= {sequence.name: sequence for sequence in reversed(sequences)}
    if str(name) not in known:
        raise ConfigError(
            f"'{path}' holds no sequence '{name}'; it holds {len(sequences)}, first '{sequences[0].name}'"
        )
    return known[str(name)]


def read_kinect_csv(path: str | Path) -> SkeletonSequence:
    """Read a Kinect v2 capture: one row a frame, `time, then x, y, z, state of 25 joints`, time in 100 ns.

    Raises:
        DeviceError: The file does not exist.
        InputError: A row is truncated, holds a value that is not a number, or its time does not increase.
    """
    path = Path(path)
    rows = [line.rstrip().rstrip(",").split(",") for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"'{path}' is empty; record it again")
    if len(rows[0]) != _COLUMNS or not rows[0][0].strip().isdecimal():
        raise InputError(
            f"'{path}' is not a Kinect v2 capture, whose lines have {_COLUMNS} numbers: the time in 100 ns, then x, y, "
            "z and state of 25 joints; save other joints as .npz with numpy (docs/teaching.md)"
        )
    for number, row in enumerate(rows, 1):
        if len(row) != _COLUMNS:
            raise InputError(
                f"'{path}' line {number} has {len(row)} values, expected {_COLUMNS}; remove or complete it"
            )
    try:
        ticks = np.array([int(row[0]) for row in rows], dtype=np.int64)
        joints = np.array([row[1:] for row in rows], dtype=np.float64).reshape(1, len(rows), 25, 4)
    except (ValueError, OverflowError) as error:
        raise InputError(f"'{path}' is not a Kinect v2 capture: {error}") from error
    wrong = np.flatnonzero((np.diff(ticks, prepend=-1) <= 0) | (ticks > _MAX_TICKS))
    if len(wrong):
        raise InputError(
            f"'{path}' line {wrong[0] + 1}: time {ticks[wrong[0]]} does not increase or is out of range; remove it"
        )
    states = joints[..., 3]
    if not np.isin(states, (0, 1, 2)).all():
        raise InputError(f"'{path}' is not a Kinect v2 capture: a tracking state is not 0, 1 or 2")
    meta = {"format": "kinect_v2_csv"}
    scores = TRACKED_SCORES[states.astype(int)]
    return from_kinect(path.stem, joints[..., :3], "kinect_v2_25", ticks * _TICK_NS, scores=scores, meta=meta)
