"""Figures of explanations, drawn by Matplotlib."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec.explanation.attention import NetworkAttention
from actrec.explanation.inner_values import INSTALL
from actrec.explanation.occlusion import Importance
from actrec.inference.package import ModelPackage
from actrec.skeleton.layouts import Layout
from actrec.types import Clip
from actrec.utils.errors import DeviceError, MissingLibraryError

COLUMNS = 6  # skeletons or images in a row
TOP_PAIRS = 50  # attention weights that SEM-Net's figure draws
SHOWN_CLASSES = 5
LISTED = ".figures"  # names of the files that `write` wrote
DPI = 110
BONE, JOINT, LINE, CIRCLE = "#4477aa", "#777777", "#ee7733", "#cc3311"

Named = tuple[str, Any]
"""Name of a file without its ending, and the figure."""


def pyplot() -> Any:
    """Return Matplotlib's interface, which draws to files alone."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        raise MissingLibraryError(f"figures need Matplotlib: {INSTALL}") from None
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def write(folder: Path, drawn: Iterator[Named]) -> list[Path]:
    """Write each figure as a PNG file instead of earlier ones; raise DeviceError if the folder cannot be written."""
    written, listed = list[Path](), folder / LISTED
    for name, figure in drawn:
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not written and listed.is_file():  # of another model, perhaps with more figures
                for earlier in listed.read_text(encoding="utf-8").splitlines():
                    (folder / Path(earlier).name).unlink(missing_ok=True)
            listed.write_text("".join(f"{each.name}\n" for each in (*written, path)), encoding="utf-8")
            figure.savefig(path, dpi=DPI, bbox_inches="tight")
        except OSError as error:
            raise DeviceError(f"cannot write '{path}': {error.strerror or error}") from error
        pyplot().close(figure)
        written.append(path)
    return written


# -- the joints that a label rests on ----------------------------------------------------------------------------------


def importance(
    found: Importance, clip: Clip, layout: Layout, seconds: float, probabilities: Mapping[str, float]
) -> Iterator[Named]:
    """Draw the importance of joints over time: skeletons, a map, and the most probable classes."""
    figure = pyplot().figure(figsize=(12, 3.4 + 0.2 * len(found.names)))
    grid = figure.add_gridspec(2, COLUMNS, height_ratios=(3.2, 0.22 * len(found.names)), hspace=0.35)
    label = next(iter(probabilities))
    values = found.by_joint(len(layout))
    peak = max(float(np.abs(found.values).max()), 1e-6)
    poses = clip["bodies"][0]
    for column, frame in enumerate(_frames(poses)):
        axes = figure.add_subplot(grid[0, column])
        segment = min(frame * values.shape[1] // len(poses), values.shape[1] - 1)
        weight = np.clip(values[:, segment] / peak, 0, 1)
        _skeleton(axes, poses[frame], layout, weight)
        axes.set_title(f"{(frame + 1 - len(poses)) * seconds / len(poses):.1f} s", fontsize=9)
    below = grid[1, :].subgridspec(1, 2, width_ratios=(3, 1), wspace=0.12)
    left = figure.add_subplot(below[0])
    image = left.imshow(found.values, aspect="auto", cmap="RdBu_r", vmin=-peak, vmax=peak,
                        extent=(-seconds, 0, len(found.names) - 0.5, -0.5))  # fmt: skip
    left.set_yticks(range(len(found.names)), [_plain(name) for name in found.names], fontsize=8)
    left.set_xlabel("time before the label, s")
    left.set_title(f"decrease of ln p('{label}') without the joint in this part of the window", fontsize=9)
    figure.colorbar(image, ax=left, fraction=0.03, pad=0.02)
    right = figure.add_subplot(below[1])
    names = list(probabilities)[:SHOWN_CLASSES][::-1]
    right.barh(names, [probabilities[name] for name in names], color=BONE)
    right.set_xlim(0, 1)
    right.yaxis.tick_right()
    right.set_title("probability", fontsize=9)
    yield "importance", figure


# -- the figures of the papers, for a clip -----------------------------------------------------------------------------


def of_clip(
    evidence: NetworkAttention, inputs: Mapping[str, np.ndarray], package: ModelPackage, clip: Clip, layout: Layout
) -> Iterator[Named]:
    """Draw the values that a network has, each as its paper does."""
    poses = clip["bodies"][0][-package.window.clip_frames :]
    if evidence.parts:
        yield "attention", _parts(evidence.parts, inputs)
    for title, values in evidence.joints.items():
        yield "informativeness", _informativeness(title, values, evidence.filters, poses, layout)
    for title, values in evidence.over_time.items():
        yield _file_name(title), _activations(title, values, poses, layout)
    for stream, weights in evidence.pairs.items():
        yield f"attention_{stream}", _pairs(stream, weights, poses, layout)
    if evidence.regions is not None:
        yield "attention", _regions(evidence, inputs["body_crop"])
    if stamps := {name: value for name, value in inputs.items() if name.endswith("_stamp")}:
        yield "stamps", _stamps(stamps)
    if evidence.branches:
        yield "branches", _branches(evidence, package.labels)


def _parts(parts: Mapping[str, float], inputs: Mapping[str, np.ndarray]) -> Any:
    """Draw P-I3D's Fig. 6: the crops over time, with the attention α of each part."""
    figure, rows = pyplot().subplots(len(parts), COLUMNS, figsize=(10, 1.8 * len(parts)), squeeze=False)
    for row, (name, alpha) in zip(rows, parts.items(), strict=True):
        frames = inputs[name].shape[1]
        for axes, frame in zip(row, np.linspace(0, frames - 1, COLUMNS).astype(int), strict=True):
            axes.imshow(_image(inputs[name][:, frame]))
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(f"{_plain(name).removesuffix(' crop')}\nα = {alpha:.2f}", fontsize=10)
    figure.suptitle("attention of each part (Eq. 3)")
    return figure


def _informativeness(
    title: str, values: np.ndarray, filters: np.ndarray | None, poses: np.ndarray, layout: Layout
) -> Any:
    """Draw the scene-flow paper's Fig. 3: circles of the score, and the responses of the strongest filters."""
    figure, (left, middle, right) = pyplot().subplots(
        1, 3, figsize=(13, 4.6), width_ratios=(1, 1, 1.4), layout="constrained"
    )
    _skeleton(left, poses[_frames(poses)[COLUMNS // 2]], layout, values)
    left.set_title(title, fontsize=10)
    figure.subplots_adjust(wspace=0.35)
    order = np.argsort(values)
    middle.barh([_plain(layout.joints[v]) for v in order], values[order], color=CIRCLE)
    middle.tick_params(axis="y", labelsize=7)
    if filters is not None:
        right.imshow(filters / max(float(filters.max()), 1e-9), aspect="auto", cmap="viridis")
        right.set_yticks(range(len(filters)), [f"filter {number + 1}" for number in range(len(filters))])
        right.set_xticks(range(len(layout)), [_plain(joint) for joint in layout.joints], rotation=90, fontsize=7)
        right.set_title("responses of BJCN-1's strongest filters", fontsize=10)
    return figure


def _activations(title: str, values: np.ndarray, poses: np.ndarray, layout: Layout) -> Any:
    """Draw SPA-Net's Fig. 7 (c) and VPN's Fig. 5 (a): circles of each joint's activation, and its map over time."""
    figure = pyplot().figure(figsize=(12, 7.5))
    grid = figure.add_gridspec(2, COLUMNS, height_ratios=(1, 1.5))
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-9)
    for column, frame in enumerate(_frames(poses)):
        _skeleton(figure.add_subplot(grid[0, column]), poses[frame], layout, scaled[frame * len(values) // len(poses)])
    axes = figure.add_subplot(grid[1, :])
    image = axes.imshow(values.T, aspect="auto", cmap="inferno")
    axes.set_yticks(range(len(layout)), [_plain(joint) for joint in layout.joints], fontsize=7)
    axes.set_xlabel("time in the clip →")
    axes.set_xticks([])
    figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01)
    figure.suptitle(title)
    return figure


def _pairs(stream: str, weights: np.ndarray, poses: np.ndarray, layout: Layout) -> Any:
    """Draw SEM-Net's Fig. 7 (b): the strongest attention weights between joints as lines, and all of them as a map."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 5), width_ratios=(1, 1.3))
    pose = poses[_frames(poses)[COLUMNS // 2]]
    both = weights + weights.T
    np.fill_diagonal(both, 0)
    rows, columns = np.triu_indices(len(both), 1)
    strongest = np.argsort(-both[rows, columns])[:TOP_PAIRS]
    peak = float(both[rows, columns][strongest[0]])
    for index in strongest[::-1]:
        a, b = pose[rows[index]], pose[columns[index]]
        strength = float(both[rows[index], columns[index]]) / peak
        left.plot([a[0], b[0]], [-a[1], -b[1]], color=LINE, lw=0.5 + 2 * strength, alpha=0.15 + 0.6 * strength)
    _skeleton(left, pose, layout)
    left.set_title(f"{TOP_PAIRS} strongest attention weights, {_plain(stream)}", fontsize=10)
    image = right.imshow(weights, cmap="viridis")
    names = [_plain(joint) for joint in layout.joints]
    right.set_yticks(range(len(names)), names, fontsize=7)
    right.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
    right.set_title("mean over heads and blocks; rows attend to columns", fontsize=10)
    figure.colorbar(image, ax=right, fraction=0.04, pad=0.02)
    return figure


def _regions(evidence: NetworkAttention, crop: np.ndarray) -> Any:
    """Draw VPN's attention: A_S over the crop, and A_T of each step."""
    assert evidence.regions is not None
    figure = pyplot().figure(figsize=(12, 4.2))
    grid = figure.add_gridspec(2, COLUMNS, height_ratios=(2, 1))
    low, high = float(evidence.regions.min()), float(evidence.regions.max())
    for column, frame in enumerate(np.linspace(0, crop.shape[1] - 1, COLUMNS).astype(int)):
        axes, size = figure.add_subplot(grid[0, column]), crop.shape[2]
        axes.imshow(_image(crop[:, frame]))
        axes.imshow(evidence.regions, cmap="inferno", alpha=0.5, extent=(0, size, size, 0), interpolation="bilinear")
        axes.set_axis_off()
    figure.suptitle(f"spatial attention A_S, {low:.2f} to {high:.2f}")
    if evidence.steps is not None:
        axes = figure.add_subplot(grid[1, :])
        axes.bar([str(step) for step in range(len(evidence.steps))], evidence.steps, color=BONE)
        axes.set_title("temporal attention A_T of each step of the feature map", fontsize=10)
    return figure


def _stamps(stamps: Mapping[str, np.ndarray]) -> Any:
    """Draw DeepActsNet's Fig. 2: the deep action stamps of body 0 as images."""
    figure, row = pyplot().subplots(1, len(stamps), figsize=(2.6 * len(stamps), 3), squeeze=False)
    for axes, (name, stamp) in zip(row[0], stamps.items(), strict=True):
        axes.imshow(np.clip(stamp[0], 0, 255).astype(np.uint8).transpose(1, 2, 0))
        axes.set_title(_plain(name), fontsize=10)
        axes.set_axis_off()
    return figure


def _branches(evidence: NetworkAttention, labels: Sequence[str]) -> Any:
    """Draw how much each branch adds to the scores of the most probable classes: their sum is the logit."""
    figure, axes = pyplot().subplots(figsize=(8, 0.5 + 0.5 * len(evidence.branches)))
    best = np.argsort(-evidence.probabilities)[:SHOWN_CLASSES]
    scores = np.stack([scores[best] - scores.mean() for scores in evidence.branches.values()])
    peak = max(float(np.abs(scores).max()), 1e-9)
    image = axes.imshow(scores, aspect="auto", cmap="RdBu_r", vmin=-peak, vmax=peak)
    axes.set_yticks(range(len(scores)), [_plain(name).replace("/", ", ") for name in evidence.branches])
    axes.set_xticks(range(len(best)), [labels[index] for index in best], rotation=20, ha="right")
    axes.set_title("score of each branch above its mean over the classes", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    return figure


# -- by class ----------------------------------------------------------------------------------------------------------


def by_class(clips: Sequence[tuple[str, NetworkAttention]], labels: Sequence[str], layout: Layout) -> Iterator[Named]:
    """Draw means over the clips of each class, and the clips in the space of the features.

    Args:
        clips: The true class of each clip, and its evidence.
        labels: The model's classes.
        layout: Of its joints.
    """
    names = list(dict.fromkeys(name for name, _ in clips))
    of = {name: [evidence for own, evidence in clips if own == name] for name in names}
    if parts := list(clips[0][1].parts):
        rows = [[np.mean([each.parts[part] for each in of[name]]) for part in parts] for name in names]
        columns = [_plain(part).removesuffix(" crop") for part in parts]
        yield "attention_by_class", _map("mean attention α of each part", names, columns, np.array(rows))
    for title in clips[0][1].joints:
        rows = [np.mean([each.joints[title] for each in of[name]], axis=0) for name in names]
        yield "informativeness_by_class", _map(title, names, [_plain(j) for j in layout.joints], np.array(rows))
    for stream in clips[0][1].pairs:
        rows = [np.mean([each.pairs[stream].mean(axis=0) for each in of[name]], axis=0) for name in names]
        title, columns = f"attention that joints receive, {stream}", [_plain(joint) for joint in layout.joints]
        yield f"attention_{stream}_by_class", _map(title, names, columns, np.array(rows))
    for title in clips[0][1].over_time:
        rows = [np.mean([each.over_time[title].mean(axis=0) for each in of[name]], axis=0) for name in names]
        yield f"{_file_name(title)}_by_class", _map(title, names, [_plain(j) for j in layout.joints], np.array(rows))
    yield "dynamicity_by_class", _dynamicity(of, labels)
    features = [evidence.embedding for _, evidence in clips if evidence.embedding is not None]
    if len(features) == len(clips) > 2:
        yield "embedding", _embedding(np.stack(features), [name for name, _ in clips])


def _dynamicity(of: Mapping[str, Sequence[NetworkAttention]], labels: Sequence[str]) -> Any:
    """Draw VPN's Fig. 6 (a): the classes by dynamicity, beside their accuracy if they are the model's."""
    change = {name: float(np.nanmean([each.dynamicity for each in found])) for name, found in of.items()}
    names = sorted(change, key=lambda name: change[name])
    columns = 1 + (set(names) <= set(labels))
    size = (5 * columns, 1 + 0.2 * len(names))
    figure, row = pyplot().subplots(1, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    row[0, 0].barh(names, [change[name] for name in names], color=BONE)
    row[0, 0].set_xlabel("dynamicity: mean Procrustes distance of successive poses", fontsize=8)
    row[0, 0].tick_params(axis="y", labelsize=7)
    if columns > 1:
        right = [np.mean([labels[int(np.argmax(each.probabilities))] == name for each in of[name]]) for name in names]
        row[0, 1].barh(names, right, color=LINE)
        row[0, 1].set_xlabel("share of the clips that are right", fontsize=8)
    return figure


def _embedding(features: np.ndarray, names: Sequence[str]) -> Any:
    """Draw the features of clips in the plane of their first two principal components."""
    centered = features - features.mean(axis=0)
    _, strengths, directions = np.linalg.svd(centered, full_matrices=False)
    places, share = centered @ directions[:2].T, float((strengths[:2] ** 2).sum() / max((strengths**2).sum(), 1e-12))
    figure, axes = pyplot().subplots(figsize=(8, 6.5))
    colors = pyplot().get_cmap("nipy_spectral")
    known = list(dict.fromkeys(names))
    for number, name in enumerate(known):
        own = [index for index, other in enumerate(names) if other == name]
        axes.plot(*places[own].T, "o", ms=4, color=colors(number / max(len(known) - 1, 1)), label=name)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + len(known) // 36)
    axes.set_title(
        f"features before the classifier: two principal components, {share:.0%} of the variance", fontsize=10
    )
    return figure


def _map(title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> Any:
    figure, axes = pyplot().subplots(figsize=(2.5 + 0.32 * len(columns), 1.2 + 0.22 * len(rows)))
    image = axes.imshow(values, aspect="auto", cmap="viridis")
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    return figure


# -- parts of figures -------------------------------------------------------------------------------------------------


def _frames(poses: np.ndarray) -> list[int]:
    """Return `COLUMNS` frames of poses [T, V, 3], evenly spaced over the ones with joints."""
    seen = np.flatnonzero(np.isfinite(poses).all(axis=2).any(axis=1))
    seen = seen if len(seen) else np.arange(len(poses))
    return [int(frame) for frame in seen[np.linspace(0, len(seen) - 1, COLUMNS).round().astype(int)]]


def _skeleton(axes: Any, pose: np.ndarray, layout: Layout, weight: np.ndarray | None = None) -> None:
    """Draw a pose [V, 3] as the camera sees it, with circles of `weight` [V], 0..1."""
    x, y = pose[:, 0], -pose[:, 1]
    for a, b in layout.edges:
        axes.plot(x[[a, b]], y[[a, b]], color=BONE, lw=1.5, zorder=1)
    axes.scatter(x, y, s=4, color=JOINT, zorder=2)
    if weight is not None:
        weight = np.clip(weight, 0, 1)
        axes.scatter(x, y, s=220 * weight, color=CIRCLE, alpha=0.25 + 0.6 * weight, lw=0, zorder=3)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_axis_off()


def _image(planes: np.ndarray) -> np.ndarray:
    """Return an image [H, W, 3] uint8 of an input's planes [3, H, W] in −1..1."""
    return np.asarray(np.clip((planes.transpose(1, 2, 0) + 1) * 127.5, 0, 255), np.uint8)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _file_name(title: str) -> str:
    return "_".join(title.lower().replace(",", "").replace("-", "_").split())
