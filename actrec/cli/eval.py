"""`actrec eval`: scores a model package on a dataset."""

import argparse
import importlib
import json
from typing import Any

from actrec import inference
from actrec.cli.train import add_data_argument

EPILOG = """\
Example:
  actrec eval deepacts_graph_nucla --data ~/datasets
  actrec eval runs/my_package --dataset nucla --part test --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `actrec eval`."""
    parser.epilog = EPILOG
    parser.add_argument("package", help="model package: a folder, or the name of one in the zoo")
    parser.add_argument("--dataset", help="default: the one it was trained on")
    parser.add_argument("--split", help="default: the one it was trained on")
    parser.add_argument("--part", default="test", help="train or test (default: test)")
    add_data_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints accuracy, per class and with rejection."""
    session = inference.load(args.package)
    provenance = session.package.provenance
    dataset = args.dataset or provenance.dataset
    data = importlib.import_module("actrec_models.data")
    clips = data.create(dataset, data.folder(args.data, dataset), split=args.split or provenance.split, part=args.part)
    report = importlib.import_module("actrec_models.evaluation").evaluate(session, clips)
    figures = {"package": session.package.name, "dataset": dataset, "part": args.part, **report.as_dict()}
    print(json.dumps(figures, indent=2) if args.json else _text(figures))
    return 0


def _text(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['package']} on {figures['dataset']} ({figures['part']}, {figures['clips']} clips)",
        f"  top-1 {figures['accuracy']:.1%}, top-5 {figures['top5']:.1%}",
        f"  with rejection below {figures['threshold']:g}: {figures['right_and_accepted']:.1%} right, "
        f"{figures['rejected']:.1%} unknown",
    ]
    lines += [f"  {accuracy:6.1%}  {name}" for name, accuracy in figures["per_class"].items()]
    return "\n".join(lines)
