"""Northwestern-UCLA (Wang et al., CVPR 2014): 10 actions, 10 subjects, 3 views, Kinect v1."""

from pathlib import Path

from actrec.errors import ConfigError
from actrec.recordings.nucla import CLASSES, read_nucla_npz
from actrec_models.data.clips import ClipDataset, clip_of

VIEWS = {"train": (1, 2), "test": (3,)}


def load(root: str, split: str = "view", part: str = "train") -> ClipDataset:
    """The cross-view protocol: views 1 and 2 train (1,020 clips), view 3 tests (464).

    Args:
        root: Folder that holds `nucla_skeletons.npz`.
        split: "view", the dataset's official one.
        part: "train" or "test".

    Raises:
        ConfigError: Another split or part.
        DeviceError: The file is not there.
    """
    if split != "view" or part not in VIEWS:
        raise ConfigError(f"nucla has split 'view' with parts {', '.join(VIEWS)}; got split '{split}', part '{part}'")
    sequences = read_nucla_npz(Path(root) / "nucla_skeletons.npz")
    chosen = [s for s in sequences if s.meta["view"] in VIEWS[part]]
    return ClipDataset((clip_of(s, (s.label or 0) - 1) for s in chosen), CLASSES)
