"""`actrec simulate`: render simulated actors to an image folder or a video."""

import argparse
import contextlib
import dataclasses
import json
import typing
from typing import Any

import numpy as np

from actrec.cli import interruptible
from actrec.utils import config
from actrec.utils.errors import ConfigError, EndOfStream
from actrec.utils.folders import expanded

EPILOG = """\
Examples:
  actrec simulate --action wave --seconds 5 --out wave
  actrec simulate --actors 2 --seconds 20 --preview two.mp4
  actrec simulate --script nucla_skeletons.npz --sequence a01_s01_e00_v03 --out pick_up

Play the folder with: actrec run --driver replay (option path)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--out", metavar="FOLDER", help="write N.png, N_depth.png (16 bit, mm), joints.npz, intrinsics.yaml here")
    add("--preview", metavar="FILE.mp4", help="write a video of color beside depth")
    add("--seconds", type=float, metavar="S", help="duration (default: 5, or the script's)")
    add("--action", nargs="+", metavar="NAME", help="actions in order, 'all' for all of them (default: all)")
    add("--actors", type=int, metavar="N", help="people in the scene, 0 to 5")
    add("--script", metavar="FILE", help="follow a skeleton recording instead of actions")
    add("--sequence", metavar="NAME", help="sequence in a script with several")
    add("--seed", type=int, metavar="N", help="seed of performances and noise")
    add("--no-noise", action="store_true", help="exact color and depth")
    add("--set", nargs="+", action="extend", default=[], metavar="OPTION=VALUE",
        help="other options of the camera, such as fps=15; repeatable")  # fmt: skip
    add("--overwrite", action="store_true", help="write into a folder that is not empty")
    add("--list", action="store_true", help="list the actions and the camera's options")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Render and write."""
    if args.list:
        print(json.dumps(_listed()) if args.json else _listing())
        return 0
    if not args.out and not args.preview:
        raise ConfigError("no output: use --out FOLDER, --preview FILE.mp4, or both (or --list)")
    from tqdm import tqdm

    from actrec.cameras.simulated import SimulatedCamera
    from actrec.recordings.image_folder import FolderWriter, check_new

    camera = SimulatedCamera(**camera_options(args))
    writers: list[Any] = []
    with camera, interruptible() as stopped, contextlib.ExitStack() as stack:
        assert camera.scene is not None
        seconds = min(camera.config.duration or np.inf, camera.scene.duration)
        if not np.isfinite(seconds):
            raise ConfigError("this recording does not end: give --seconds")
        if args.out:
            check_new(expanded(args.out), args.overwrite)
        if args.preview:  # first: an earlier recording is deleted only if the video can be written
            from actrec.recordings.video import PreviewWriter

            writers.append(stack.enter_context(contextlib.closing(PreviewWriter(expanded(args.preview)))))
        if args.out:
            up = camera.scene.camera.up if camera.config.gravity else None
            folder = FolderWriter(expanded(args.out), camera.intrinsics, camera.config.fps, True, up)  # checked above
            writers.append(stack.enter_context(contextlib.closing(folder)))
        frames = 0
        with tqdm(total=int(np.ceil(seconds * camera.config.fps - 1e-9)), unit="frame", disable=None) as bar:
            with contextlib.suppress(EndOfStream):
                while not stopped.is_set():
                    frame = camera.read()
                    for writer in writers:
                        writer.add(frame, camera.actions_at(frame.stamp_ns))
                    frames += 1
                    bar.update()
    written = [str(path) for path in (args.out, args.preview) if path]
    figures = {"frames": frames, "written": written}
    print(json.dumps(figures) if args.json else f"{frames} frames in {', '.join(written)}")
    return 0


def camera_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the camera's options; raise ConfigError for actions with a script, or a `--set` without `OPTION=VALUE`."""
    if args.script and args.action:
        raise ConfigError("--action and --script exclude each other: use one of them")
    options = config.parse_pairs(args.set, "--set") | {"realtime": False}
    given = {"actions": args.action, **{name: getattr(args, name) for name in ("actors", "script", "sequence", "seed")}}
    options |= {name: value for name, value in given.items() if value is not None}
    if args.no_noise:
        options["noise"] = False
    if args.seconds is not None and not args.seconds > 0:
        raise ConfigError(f"--seconds is {args.seconds}, expected more than 0")
    if args.seconds is not None:
        options["duration"] = args.seconds
    elif not options.get("script"):
        options.setdefault("duration", 5.0)
    return options


def _listed() -> dict[str, Any]:
    """Return the actions, the ones that "all" stands for, and the camera's options."""
    from actrec.cameras.simulated import SimulatedConfig
    from actrec.simulation.actions import CYCLE
    from actrec.simulation.scene import ACTION_NAMES

    hints, defaults = typing.get_type_hints(SimulatedConfig), SimulatedConfig()
    options = [
        {
            "name": field.name,
            "type": getattr(hints[field.name], "__name__", str(hints[field.name])),
            "default": getattr(defaults, field.name),
            "description": field.metadata["description"],
        }
        for field in dataclasses.fields(SimulatedConfig)
    ]
    return {"actions": list(ACTION_NAMES), "all": list(CYCLE), "options": options}


def _listing() -> str:
    found = _listed()
    lines = [f"Actions: {', '.join(found['actions'])}", f"'all' stands for: {', '.join(found['all'])}", ""]
    lines.append("Options of the camera (--set):")
    lines += ["  {name:<15} {type:<6} {default!s:<28} {description}".format(**option) for option in found["options"]]
    return "\n".join(lines)
