"""`actrec prepare`: read a dataset once and write a store from which training reads fast."""

import argparse
import dataclasses
import importlib
import io
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actrec import datasets
from actrec.cli import count, names, refuse_unused
from actrec.cli.train import add_data_argument, add_recording_argument, add_root_argument, folder_options
from actrec.utils import config, folders, usable_cores
from actrec.utils.errors import ConfigError, DeviceError, InputError

CHECKS_WITHOUT = "streams estimate picture_size set option root recording scheduler strict"
RENDERS_WITHOUT = "streams estimate picture_size set scheduler check repair prune strict"
_SHOWN = 10  # number of skipped items printed; the file lists all

EPILOG = """\
The store holds the dataset in a few large files, memory-mapped when they are read. Training, evaluation and export read
a store wherever they read a dataset: let --data name the folder that holds the store under the dataset's own name.

A stopped run resumes if the same command is run again. A finished one adds new and changed items. Unreadable items are
skipped, listed in OUT/skipped.json and tried again by the next run. Clips of removed items are ignored, and stay on the
disk until --prune.

Examples:
  actrec prepare ntu60 --data ~/datasets --out ~/prepared/ntu60
  actrec train models/recipes/papers/sem_net_ntu60.yaml --data ~/prepared --out runs/ntu60
  actrec prepare rendered --out ~/prepared/rendered --streams bodies,color --estimate flow --picture-size 120
  actrec prepare ntu60 --data /nfs/datasets --out /nfs/prepared/ntu60 --scheduler tls://head:8786
  actrec prepare ntu60 --out ~/prepared/ntu60 --check
  actrec prepare nucla --render-every 4 --out runs/nucla_rendered.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `actrec prepare`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("dataset", help="name of a dataset; 'actrec prepare list' lists them")
    add_data_argument(parser)
    add_root_argument(parser)
    add_recording_argument(parser)
    add("--out", type=Path, help="folder of the store (default: prepared/DATASET)")
    add("--streams", default="", metavar="NAMES", help="required streams to keep, separated by commas: bodies, hands, "
        "face, motion, flow, color (default: bodies, and hands and face if available)")  # fmt: skip
    add("--estimate", default="", metavar="NAMES", help="streams to estimate from color and depth, as the live nodes "
        "do: bodies, hands, face, motion, flow")  # fmt: skip
    height = "height to reduce color to, with all pixel coordinates (default: unchanged)"
    add("--picture-size", type=int, default=0, metavar="PX", help=height)
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the dataset; repeatable")
    other = "another setting of the preparation, e.g. image_quality=90 or flow.height=120"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=other)
    processes = "processes of this machine; 0 for this one alone (default: one per available core, %(default)s)"
    add("--workers", type=int, default=usable_cores(), metavar="N", help=processes)
    cluster = "dask.distributed scheduler of a cluster to run on instead; every worker must see --data and --out"
    add("--scheduler", default="", metavar="ADDRESS", help=cluster)
    add("--render-every", type=count, metavar="N", help="write no store: render every N-th training clip with the "
        "simulated camera, and every N-th unknown one, estimate its bodies or hands again and write them to --out "
        "FILE.npz (`rendered` of a recipe)")  # fmt: skip
    add("--render-split", default="", metavar="NAME", help="split of that training part (default: the dataset's first)")
    add("--render-cameras", choices=("recorded", "varied", "pitched"), help="of the rendering: as "
        "the recording's, or around the person (before a hand: rolled), some or all looking up or down "
        "(default: recorded)")  # fmt: skip
    add("--check", action="store_true", help="only verify every checksum of the store")
    add("--repair", action="store_true", help="verify every checksum and prepare damaged clips again")
    add("--prune", action="store_true", help="delete the clips of removed items and old versions of changed items")
    add("--strict", action="store_true", help="fail if an item is skipped or a prepared item was removed")
    add("--json", action="store_true", help="print a summary as JSON")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Prepare or check a store and print a summary."""
    data = importlib.import_module("actrec_models.data")
    if args.dataset == "list":
        known = data.DATASETS.names()
        print(json.dumps(known) if args.json else "\n".join(known))
        return 0
    data.DATASETS.get(args.dataset)
    if args.workers < 0:
        raise ConfigError(f"--workers is {args.workers}, expected 0 or more")
    if args.check and (args.repair or args.prune):
        other = "--repair" if args.repair else "--prune"
        raise ConfigError(f"--check only looks, {other} changes the store: give one of them")
    out = folders.expanded(args.out or Path("prepared") / args.dataset)
    if args.render_every:
        refuse_unused(args, RENDERS_WITHOUT, "with --render-every, which writes no store")
        return _render(args, data)
    refuse_unused(args, "render_split render_cameras", "without --render-every")
    if args.check:
        refuse_unused(args, CHECKS_WITHOUT, "with --check, which only reads the store")
        return _check(args, out)
    return _prepare(args, out, data)


def _prepare(args: argparse.Namespace, out: Path, data: Any) -> int:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("actrec_models").setLevel(logging.INFO)
    prepare = importlib.import_module("actrec_models.data.preparation")
    settings = importlib.import_module("actrec_models.data.estimation").PrepareConfig
    named = {"streams": names(args.streams), "estimate": names(args.estimate), "image_height": args.picture_size}
    summary = prepare.prepare(
        args.dataset,
        args.root or data.folder(args.data, args.dataset),
        out,
        options=folder_options(args, config.parse_pairs(args.option, "option")),
        settings=config.build(settings, config.merge_settings(named, config.parse_pairs(args.set, "setting"))),
        run=prepare.Run(args.workers, args.scheduler, args.repair, args.prune, not args.quiet),
    )
    size = f"{summary.bytes / 1e9:.2f} GB in {summary.shards} file{'s' if summary.shards > 1 else ''}"
    text = (
        f"{summary.folder}: {summary.clips} clips of {summary.dataset}, {size}; {summary.prepared} prepared now in "
        f"{summary.seconds:.0f} s, {len(summary.skipped)} skipped"
    )
    print(json.dumps(dataclasses.asdict(summary)) if args.json else text)
    word = "actrec" if args.strict else "actrec: warning"
    if summary.absent:
        print(
            f"{word}: {len(summary.absent)} clips that were prepared are no longer in the dataset, first "
            f"'{summary.absent[0]}': ignored, but kept on the disk; --prune deletes them",
            file=sys.stderr,
        )
    if skipped := len(summary.skipped):
        for item in summary.skipped[:_SHOWN]:
            print(f"{item['name']}: {item['reason']}", file=sys.stderr)
        items = f"{skipped} item{'s' if skipped > 1 else ''}"
        print(f"{word}: {items} skipped; all of them, and why: {out / 'skipped.json'}", file=sys.stderr)
    return 1 if (skipped or summary.absent) and args.strict else 0


def _render(args: argparse.Namespace, data: Any) -> int:
    """Write rendered and estimated training clips."""
    rendered = importlib.import_module("actrec_models.data.rendered_skeletons")
    if args.out is None or args.out.suffix != ".npz":
        raise ConfigError("--render-every writes a file: give it as --out FILE.npz")
    out = folders.expanded(args.out)
    if cause := "it is a folder" if out.is_dir() else folders.problem(out.absolute().parent):
        raise DeviceError(f"cannot write '{out}' ({cause}): name another file")
    options = folder_options(args, config.parse_pairs(args.option, "option"))
    config.check_names(options, datasets.RESERVED, "--option")
    root = args.root or data.folder(args.data, args.dataset)
    parts = [create(args.dataset, root, split=args.render_split, part="train", **options)
             for create in (data.create, data.create_unknown)]  # fmt: skip
    unfinished = out.with_name(f"{out.name}.unfinished")
    how = {"cameras": args.render_cameras or "recorded", "unfinished": unfinished, "quiet": args.quiet}
    found, skipped = rendered.estimate_all(parts, args.render_every, rendered.FPS, max(args.workers, 1), **how)
    for line in skipped:
        print(line, file=sys.stderr)
    if not found:
        raise InputError(f"nothing is detected in any of the {len(skipped)} rendered clips of {args.dataset}")
    content = io.BytesIO()
    rendered.write(content, found)
    folders.write_file(out, content.getvalue())
    shutil.rmtree(unfinished)
    summary = {"out": str(out), "clips": len(found), "skipped": len(skipped)}
    text = f"{out}: {len(found)} of {len(found) + len(skipped)} clips"
    print(json.dumps(summary) if args.json else text)
    return 0


def _check(args: argparse.Namespace, out: Path) -> int:
    store = importlib.import_module("actrec.datasets.store").PreparedDataset(out)
    if store.head.dataset != args.dataset:
        raise ConfigError(f"'{out}' holds {store.head.dataset}, not {args.dataset}")
    clips = tqdm(store.damaged(), total=len(store), unit="clip", disable=args.quiet)
    damaged = [{"name": name, "reason": wrong} for name, wrong in clips if wrong]
    if args.json:
        print(json.dumps({"folder": str(out), "clips": len(store), "damaged": damaged}))
    else:
        print(*(item["reason"] for item in damaged), f"{out}: {len(damaged)} of {len(store)} clips damaged", sep="\n")
    return 1 if damaged else 0
