"""Clips of a dataset, and their probabilities and inputs, for `actrec explain`."""

import difflib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import each_clip
from actrec.inference.session import combined
from actrec.types import LazyClip
from actrec.utils.errors import ConfigError
from actrec_models.data.samples import parts
from actrec_models.evaluation import protocol, scoring
from actrec_models.evaluation.protocol import EvalOptions, Model

logger = logging.getLogger(__name__)


def open_clips(model: Model, data_root: str, options: EvalOptions) -> ClipDataset:
    """Return a part of the dataset, by default the test part of the training's.

    Raises:
        ConfigError: There is no such dataset or split.
        InputError: The dataset does not fit the model.
    """
    clips = protocol.resolve_target([model], data_root, options).open()
    scoring.check_layout(model.package, clips)
    scoring.check_streams(model.package, clips)
    if differs := scoring.other_flow(model.package, clips):
        logger.warning("%s", differs)
    return clips


def find(clips: ClipDataset, name: str) -> Clip:
    """Return the clip with this name; raise ConfigError if there is none, with the names nearest to it."""
    if name not in clips.names:
        near = difflib.get_close_matches(name, clips.names, cutoff=0.0)
        raise ConfigError(
            f"'{name}' is no recording, and the dataset's part has no such clip among {len(clips)}; some of its clips "
            f"are {', '.join(near)}"
        )
    return clips[clips.names.index(name)]


def probabilities(model: Model, clip: Clip) -> np.ndarray:
    """Return the probabilities [classes] of a clip, of all its parts as an evaluation scores them."""
    session = model.session
    logits = session.run(scoring.clip_inputs(clip, model.package, model.clips))
    return session.softmax(combined(logits[None], model.package.window.combine))[0]


def last_clip(model: Model, clip: Clip) -> tuple[LazyClip, dict[str, np.ndarray]]:
    """Return the last part of a clip that an evaluation scores, and the network's inputs of its last T frames."""
    package = model.package
    *_, part = parts(clip, package.inputs, package.window, model.clips)
    around = None if part.around_ns is None else clip.at_stamps(part.around_ns)
    shown = clip.at_stamps(part.stamps_ns)
    (inputs,) = each_clip(shown, package.inputs, part.window, part.starts[-1:], around)
    return shown, inputs


def window(model: Model, clip: Clip) -> dict[str, Any] | None:
    """Return the window at the end of a clip, or of all of it for a model of stretched clips.

    None for a model of sub-sequences, whose inputs are not all of one window.
    """
    if model.clips == "subsequences":
        return None
    spec = model.package.window
    sampled = clip.sample(spec.seconds, spec.frames, stretched=model.clips == "stretched")
    return {key: np.asarray(sampled[key]) for key in sampled}


def of_each_class(clips: ClipDataset, count: int) -> Iterator[Clip]:
    """Yield up to `count` clips of each class, evenly spaced over the dataset."""
    wanted: list[int] = []
    labels = clips.labels
    for label in range(len(clips.classes)):
        own = np.flatnonzero(labels == label)
        wanted += own[np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int))].tolist()
    yield from (clips[index] for index in wanted)
