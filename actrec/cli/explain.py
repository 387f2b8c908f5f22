"""`actrec explain`: draw the joints that a label rests on, and the figures of the network's paper."""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actrec.cli import REMEDIES, amount, count, refuse_unused
from actrec.cli.train import add_data_argument, add_dataset_arguments, add_recording_argument, folder_options
from actrec.inference.session import Session, body_layout
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, Clip
from actrec.utils import config, folders
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError, MissingLibraryError

EPILOG = """\
Examples:
  actrec explain joint_tcn_everyday wave.mp4 --at 4 --out why            why this label, 4 s after the start?
  actrec explain joint_tcn_everyday a1_s2_t1 --dataset utd_mhad --data ~/datasets --out why
  actrec explain sem_net_utd_mhad --data ~/datasets --out by_class       means over the clips of each class

Figures: importance.png (joints without which the label becomes less probable, over time) if the network takes joints,
but not of sub-sequences; attention of each part (P-I3D), informativeness (scene flow), attention between joints and
activations (SEM-Net, SPA-Net), activations and attention over the crop (VPN), stamps and the score of each branch
(DeepActsNet). The paper of C3D-F and C3D-F + AT-1 has no figure of them. By class also dynamicity and the features
before the classifier. They need matplotlib and onnx; datasets need PyTorch too.
"""

TIMEOUT_S = 600.0  # for one frame, of a slow disk
NO_LABELS_S = 60.0  # interval of labels, which are not used here
LAST_S = 0.5  # after the last frame, a time is taken to be its
SHOWN = 5
PER_CLASS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="model package (a folder, or a name in the zoo) or checkpoint (.ckpt)")
    add("clip", metavar="CLIP", nargs="?", help="recording (video, bag, folder, skeleton file), or the name of a clip "
        "of the dataset (default: clips of each class)")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FOLDER", help="write the figures into this folder")
    add("--at", type=amount, metavar="S", help="label at this time of a recording (default: its end)")
    add("--person", metavar="ID", help="body id in a recording (default: the first)")
    add("--label", metavar="NAME", help="explain the probability of this class (default: the most probable)")
    add("--per-class", type=count, metavar="N", help=f"clips of each class (default: {PER_CLASS})")
    add("--json", action="store_true", help="print the figures as JSON")
    add_data_argument(parser)
    add_recording_argument(parser)
    add_dataset_arguments(parser, "default: the training's")


def run(args: argparse.Namespace) -> int:
    """Write the figures and print their numbers."""
    args.out = folders.expanded(args.out)
    if problem := "it is a file" if os.path.isfile(args.out) else folders.problem(args.out.absolute().parent):
        raise DeviceError(f"cannot write to '{args.out}' ({problem}): name another folder")
    if args.clip is None:
        refuse_unused(args, "at person label", "without CLIP")
        found = _by_class(args)
    elif folders.expanded(args.clip).exists():
        refuse_unused(args, "dataset split part root option per_class", f"with a recording, '{args.clip}'")
        found = _of_recording(args)
    else:
        refuse_unused(args, "at person per_class", f"with the dataset's clip {args.clip}")
        if importlib.util.find_spec("torch") is None:
            remedy = f"a clip of a dataset needs PyTorch: {REMEDIES['torch']}"
            raise MissingLibraryError(f"there is no recording '{args.clip}': check the path; {remedy}")
        found = _of_dataset(args)
    print(json.dumps(found, indent=1) if args.json else _text(found))
    return 0


def _of_recording(args: argparse.Namespace) -> dict[str, Any]:
    """Explain the label of a person in a recording."""
    from actrec.cameras.replay import Decoder
    from actrec.features.clips import each_clip
    from actrec.recognition.offline import OfflineRecognizer
    from actrec.recordings import RecordingConfig, open_recording

    if args.model.endswith(".ckpt"):
        raise ConfigError(
            f"{args.model} is a checkpoint: export it for a recording: actrec export {args.model} --out …"
        )
    recording = open_recording(
        args.clip, config.build(RecordingConfig, config.parse_pairs(args.recording, "--recording"))
    )
    windows: dict[str, Clip] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(recording)
        if (first := next(recording.frames(), None)) is None:
            raise InputError(f"'{args.clip}' has no frame: record it again")
        has_color, start_ns, at_s = first.color is not None, first.stamp_ns, 0.0
        has_depth = first.depth is not None or not has_color
        worker = stack.enter_context(
            OfflineRecognizer(args.model, has_depth=has_depth, has_color=has_color, interval_s=NO_LABELS_S)
        )
        worker.find_gravity(recording.frames())
        decoder = stack.enter_context(contextlib.closing(Decoder(recording, 0.0, 0.0, loop=False)))
        with contextlib.suppress(EndOfStream):
            while True:
                frame = decoder.next(TIMEOUT_S)
                worker.process(frame)
                now = worker.recognizer.windows()
                windows = now if args.at is not None else now or windows  # without --at, of the last one in view
                at_s = (frame.stamp_ns - start_ns) / NANOSECONDS
                if args.at is not None and at_s >= args.at:
                    break
        session = worker.recognizer.session
        if worker.warning:
            print(f"actrec: {worker.warning}", file=sys.stderr)
    if args.at is not None and args.at > at_s + LAST_S:
        raise InputError(f"'{args.clip}' lasts {at_s:.1f} s: give an earlier time with --at")
    person = args.person or next(iter(windows), "")
    if person not in windows:
        seen = f"; there are {', '.join(windows)}" if windows else ": give another time with --at"
        raise InputError(f"'{args.clip}' has {f'no person {person}' if person else 'no person'} at that time{seen}")
    window, package = windows[person], session.package
    (inputs,) = each_clip(window, package.inputs, package.window, package.window.starts[-1:])
    found = session.probabilities([window])[0]
    return _explain(args, session, package.read_onnx("float32"), found, window, inputs, window)


def _of_dataset(args: argparse.Namespace) -> dict[str, Any]:
    """Explain the label of a clip of a dataset."""
    explained, model, content, clips = _open(args)
    clip = explained.find(clips, args.clip)
    shown, inputs = explained.last_clip(model, clip)
    probabilities, window = explained.probabilities(model, clip), explained.window(model, clip)
    found = _explain(args, model.session, content, probabilities, shown, inputs, window)
    return {"class": clips.classes[clip.label], **found}


def _open(args: argparse.Namespace) -> tuple[Any, Any, bytes, Any]:
    explained = importlib.import_module("actrec_models.evaluation.explained_clips")
    given = {name: getattr(args, name) for name in ("dataset", "split", "part", "root") if getattr(args, name)}
    given["dataset_options"] = folder_options(args, config.parse_pairs(args.option, "dataset option"))
    model = importlib.import_module("actrec_models.evaluation.protocol").open_model(args.model)
    content = importlib.import_module("actrec_models.export.onnx_graph").read(model.package)
    return explained, model, content, explained.open_clips(model, args.data, explained.EvalOptions(**given))


def _explain(
    args: argparse.Namespace, session: Session, content: bytes, probabilities: np.ndarray, clip: Clip,
    inputs: Mapping[str, np.ndarray], window: Clip | None,
) -> dict[str, Any]:  # fmt: skip
    """Write the figures of one label, and return their numbers.

    Args:
        args: The command's arguments.
        session: The model, and `content`, its graph.
        probabilities: [classes].
        clip: Part of the recording, and `inputs`, the network's inputs of its last T frames.
        window: Window in which joints are occluded; None for no such figure.
    """
    from actrec.explanation import attention, figures, occlusion
    from actrec.features.leveling import level_clip

    package, layout = session.package, layouts.get(body_layout(session.package))
    labels = package.labels
    if args.label is not None and args.label not in labels:
        raise ConfigError(f"model {package.name} has no class '{args.label}'; it has {', '.join(labels)}")
    label = int(np.argmax(probabilities)) if args.label is None else labels.index(args.label)
    order = [label, *(int(index) for index in np.argsort(-probabilities) if index != label)][:SHOWN]
    best = {labels[index]: round(float(probabilities[index]), 4) for index in order}
    level: Callable[[Clip], Clip] = (lambda own: own) if package.window.gravity == "camera" else level_clip
    found: dict[str, Any] = {"model": package.name, "probabilities": best}
    drawn: list[Any] = []
    if window is not None and (importance := occlusion.importance(session, window, label)):
        drawn += figures.importance(importance, level(window), layout, package.window.seconds, best)
        ranked = np.argsort(-importance.whole)[:SHOWN]
        found["importance"] = {
            importance.names[index]: round(float(importance.whole[index]), 3) + 0.0 for index in ranked
        }
    read = attention.Reader(package, content, str(package.path)).read(inputs, level(clip))
    drawn += figures.of_clip(read, inputs, package, level(clip), layout)
    found |= {"attention": {name: round(value, 3) for name, value in read.parts.items()}} if read.parts else {}
    found |= {"dynamicity": round(read.dynamicity, 5)} if np.isfinite(read.dynamicity) else {}
    return {**found, "written": [str(path) for path in figures.write(args.out, iter(drawn))]}


def _by_class(args: argparse.Namespace) -> dict[str, Any]:
    """Explain clips of each class of a dataset."""
    from tqdm import tqdm

    from actrec.explanation import attention, figures

    explained, model, content, clips = _open(args)
    package: Any = model.package
    reader = attention.Reader(package, content, str(package.path))
    chosen, read = list(explained.of_each_class(clips, args.per_class or PER_CLASS)), []
    for clip in tqdm(chosen, package.name, unit="clip", disable=True if args.json else None):
        shown, inputs = explained.last_clip(model, clip)
        read.append((clips.classes[clip.label], reader.read(inputs, shown)))
    drawn = figures.by_class(read, package.labels, layouts.get(body_layout(package)))
    return {"model": package.name, "clips": len(read), "written": [str(p) for p in figures.write(args.out, drawn)]}


def _text(found: Mapping[str, Any]) -> str:
    """Return the figures as lines."""
    lines = []
    for key, value in found.items():
        if key == "written":
            lines.append(f"written: {', '.join(value)}")
        elif isinstance(value, dict):
            lines.append(f"{key}: " + ", ".join(f"{name} {number:g}" for name, number in value.items()))
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)
