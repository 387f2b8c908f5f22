"""What a session asks of a window, and how the scores of its clips become one."""

from collections.abc import Iterator, Mapping

import numpy as np

from actrec import features
from actrec.errors import InputError, PackageError
from actrec.features.base import KEYS, Clip, FrameFeature
from actrec.features.clips import of_window
from actrec.features.example import example_clip
from actrec.package import InputSpec, ModelPackage
from actrec.skeleton import layouts
from actrec.skeleton.conversions import CANONICAL

_AXES = {key: shape.strip("[]").split(", ") for key, (_, shape, _) in KEYS.items()}
_SHARED = ("M", "T", "V")
"""Axes that all keys of a clip have in common; pictures may differ in size."""


# -- checks ------------------------------------------------------------------------------------------------------------


def check(clip: Clip, package: ModelPackage) -> None:
    """Refuses a window that breaks the data contract; what an input lacks, its feature says.

    Raises:
        InputError: No mapping, an unknown key, a wrong type or shape, infinite values, more bodies than M, or nobody.
    """
    if not isinstance(clip, Mapping):
        window = package.window
        raise InputError(
            f"a clip is a mapping of {', '.join(KEYS)}, not {type(clip).__name__}; a dataset's clip gives one by "
            f"clip.sample({window.seconds:g}, {window.frames})"
        )
    pictures = {spec.name for spec, _ in frame_inputs(package)}
    unknown = sorted(set(clip) - set(KEYS) - pictures)
    if unknown or not clip:
        found = f"the unknown key '{unknown[0]}'" if unknown else "no key"
        raise InputError(f"a clip has {found}; known: {', '.join([*KEYS, *sorted(pictures)])}")
    sizes = {"T": package.window.frames}
    for key, value in clip.items():
        if key in pictures:
            _check_frames(key, len(value), package.window.frames)
        else:
            _check_key(key, np.asarray(value), sizes)
    bodies = clip.get("bodies")
    if bodies is None:
        return
    if np.size(bodies) == 0 or np.isnan(bodies).all():
        raise InputError(f"bodies {list(np.shape(bodies))} hold no joint: there is nobody to recognise")
    if len(bodies) > package.bodies:
        raise InputError(
            f"bodies are {list(np.shape(bodies))} [M, T, V, 3] but {package.name} takes up to {package.bodies} bodies"
        )


def _check_frames(name: str, found: int, frames: int) -> None:
    if found != frames:
        raise InputError(f"'{name}' holds {found} observed frames, expected {frames} frames, one a sample")


def _check_key(key: str, value: np.ndarray, sizes: dict[str, int]) -> None:
    """Type, shape and values of one key; `sizes` remembers the shared axes of the keys before."""
    wanted = "u" if key == "colour" else "fiu" if key == "size" else "f"
    if value.dtype.kind not in wanted or (key == "colour" and value.dtype != np.uint8):
        expected = "uint8 RGB" if key == "colour" else f"float32: {KEYS[key][2]}"
        raise InputError(f"{key} are {value.dtype}, expected {expected}")
    axes = _AXES[key]
    fits = value.ndim == len(axes)
    for axis, size in zip(axes, value.shape, strict=False):
        limit = int(axis) if axis.isdigit() else sizes.setdefault(axis, size) if axis in _SHARED else size
        fits = fits and size == limit
    if not fits:
        known = ", ".join(f"{axis} = {sizes[axis]}" for axis in axes if axis in sizes and axis != "T")
        among = f" of {sizes['T']} frames" if "T" in axes else ""
        raise InputError(
            f"{key} are {list(value.shape)}, expected {KEYS[key][1]}{among}{f' with {known}' if known else ''}"
        )
    if value.dtype.kind == "f" and np.isinf(value).any():
        raise InputError(f"{key} hold infinite values; what is missing is NaN")


# -- scores ------------------------------------------------------------------------------------------------------------


def combined(logits: np.ndarray, how: str) -> np.ndarray:
    """The scores of windows from those of their clips.

    Probabilities that are averaged or maximised come back as logits whose softmax they are, at the level of the clips'
    own (the mean of their log-sum-exp), so that temperature and background mean the same as for a single clip.

    Args:
        logits: [N, clips, classes].
        how: As `WindowSpec.combine` has it.

    Returns:
        [N, classes] float32; NaN where one of a window's clips has it.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    scores = logits.astype(np.float64)
    if how == "logits":
        return scores.mean(axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        level = _log_sum_exp(scores, axis=2)
        logs = scores - level
        joint = _log_sum_exp(logs, axis=1)[:, 0] if how == "mean" else logs.max(axis=1)
        joint -= _log_sum_exp(joint, axis=1)
    return (joint + level.mean(axis=1)).astype(np.float32)


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    highest = values.max(axis=axis, keepdims=True)
    return highest + np.log(np.exp(values - highest).sum(axis=axis, keepdims=True))


# -- what a package needs ----------------------------------------------------------------------------------------------


def frame_inputs(package: ModelPackage) -> list[tuple[InputSpec, FrameFeature]]:
    """The inputs that are stacks of pictures, each made from one frame alone."""
    found = [(spec, features.feature(spec.modality)) for spec in package.inputs]
    return [(spec, made) for spec, made in found if isinstance(made, FrameFeature)]


def body_layout(package: ModelPackage) -> str:
    """The layout of the joints under "bodies".

    Raises:
        PackageError: The inputs want several.
    """
    wanted = {
        spec.layout
        for spec in package.inputs
        if "bodies" in features.feature(spec.modality).streams and spec.layout in layouts.LAYOUTS
    }
    if len(wanted) > 1:
        raise PackageError(f"model {package.name} takes bodies as {' and as '.join(sorted(wanted))}: export it again")
    return wanted.pop() if wanted else CANONICAL


def example(package: ModelPackage, spec: InputSpec) -> Clip:
    """A clip of which `spec` can be made: of the whole window where it shows that."""
    frames = package.window.frames if of_window(spec) else package.window.clip_frames
    clip = example_clip([spec], frames, package.bodies)
    layout = body_layout(package)
    if spec.layout != layout and "bodies" in clip and len(layouts.get(layout)) != clip["bodies"].shape[2]:
        raise PackageError(f"input '{spec.name}' takes {spec.layout} beside bodies of {layout}")
    return clip


def keys(package: ModelPackage) -> frozenset[str]:
    """The keys that inputs other than pictures are made from: found by watching them being made."""
    found: set[str] = set()
    pictures = {spec.name for spec, _ in frame_inputs(package)}
    for spec in package.inputs:
        if spec.name not in pictures:
            watched = _Watched(example(package, spec))
            features.inputs(watched, [spec])
            found |= watched.read
    return frozenset(found & set(KEYS))


class _Watched(Mapping[str, np.ndarray]):
    """A clip that notes which of its keys are looked at."""

    def __init__(self, clip: Clip):
        self._clip = clip
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        self.read.add(key)
        return self._clip[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clip)

    def __len__(self) -> int:
        return len(self._clip)
