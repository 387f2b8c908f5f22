"""UTD-MHAD (Chen et al., ICIP 2015): 27 actions, 8 subjects, Kinect v1."""

from pathlib import Path

from actrec.errors import ConfigError
from actrec.recordings.utd_mhad import CLASSES, read_utd_mhad_npz
from actrec_models.data.clips import ClipDataset, clip_of

PARTS = {"train": 1, "test": 0}


def load(root: str, split: str = "subject", part: str = "train") -> ClipDataset:
    """The cross-subject protocol: odd subjects train (431 clips), even ones test (430).

    Args:
        root: Folder that holds `utd_mhad_skeletons.npz`.
        split: "subject", the dataset's official one.
        part: "train" or "test".

    Raises:
        ConfigError: Another split or part.
        DeviceError: The file is not there.
    """
    if split != "subject" or part not in PARTS:
        raise ConfigError(
            f"utd_mhad has split 'subject' with parts {', '.join(PARTS)}; got split '{split}', part '{part}'"
        )
    sequences = read_utd_mhad_npz(Path(root) / "utd_mhad_skeletons.npz")
    chosen = [s for s in sequences if s.meta["subject"] % 2 == PARTS[part]]
    return ClipDataset((clip_of(s, (s.label or 0) - 1) for s in chosen), CLASSES)
