"""The windows that a new engine is compared with ONNX Runtime on: of recordings, or of simulated people."""

from collections.abc import Sequence

import numpy as np

from actrec import features
from actrec.features.clips import each_clip
from actrec.inference import session as windowed
from actrec.inference.package import ModelPackage
from actrec.perception.recorded_joints import read_bodies, read_hands
from actrec.skeleton import windows
from actrec.skeleton.conversions import CANONICAL
from actrec.skeleton.layouts import HANDS
from actrec.utils.errors import ConfigError, InputError

Inputs = dict[str, np.ndarray]


def recorded(package: ModelPackage, paths: Sequence[str], count: int) -> Inputs:
    """Input [count, …] float32 of windows spread evenly over recordings.

    Args:
        package: Its inputs are made of bodies, or of hands as bodies, alone.
        paths: Bags, skeleton files, videos, folders of images (`actrec.perception.recorded_joints`); of hands what
            `actrec.perception.recorded_joints.read_hands` takes.
        count: How many in all.

    Raises:
        ConfigError: The package takes more than bodies.
        InputError: A recording cannot be read, or shows no person; the message has its name.
    """
    layout = windowed.body_layout(package)
    if set(features.streams(package.inputs)) != {"bodies"} or layout not in (CANONICAL, *HANDS):
        raise ConfigError(f"{package.name} takes more than joints, which recordings do not give here: leave them out")
    rows: list[Inputs] = []
    for number, path in enumerate(paths):
        stamps, tracks = _joints(path, layout)
        wanted = (count - len(rows)) // (len(paths) - number)
        for end in np.linspace(stamps[0], stamps[-1], wanted + 1)[1:]:
            at = windows.sample_stamps(int(end), package.window.seconds, package.window.frames)
            bodies = np.stack([windows.resample(stamps, body, at) for body in tracks[: package.bodies]])
            if np.isfinite(bodies).any():
                rows += list(each_clip({"bodies": bodies.astype(np.float32)}, package.inputs, package.window))
    if not rows:
        raise InputError(f"no person is found in {', '.join(paths)}")
    return _stacked(package, rows[:count])


def _joints(path: str, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Stamps [T] and joints [M, T, V, 3] of a recording."""
    if layout in HANDS:
        return read_hands(path, layout)
    sequence = read_bodies(path)
    return sequence.stamps_ns, sequence.bodies


def simulated(package: ModelPackage, count: int, seed: int = 0) -> Inputs:
    """Input [count, …] float32 of clips like what cameras give: an example's, each moved a little at random."""
    rng = np.random.default_rng(seed)
    rows: list[Inputs] = []
    while len(rows) < count:
        clips = {spec.name: windowed.example(package, spec) for spec in package.inputs}
        merged: dict[str, np.ndarray] = {key: value for clip in clips.values() for key, value in clip.items()}
        if "bodies" in merged:
            merged["bodies"] = merged["bodies"] + rng.normal(0, 0.02, merged["bodies"].shape).astype(np.float32)
        rows += each_clip(merged, package.inputs, package.window)
    return _stacked(package, rows[:count])


def _stacked(package: ModelPackage, rows: Sequence[Inputs]) -> Inputs:
    return {spec.name: np.stack([row[spec.name] for row in rows]) for spec in package.inputs}
