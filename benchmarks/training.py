"""`actrec bench training`, `rendered` and `teach`: speed of training, and short trainings from clips to package.

`training` measures the clips a second that each network is trained on, with and without the reading of clips, and with
augmentation in batches (`--features device`) and clip by clip.
`rendered` trains every RGB and flow network, small, on clips of the simulated camera: a test of rendering, preparation,
training, export and evaluation, whose accuracies say nothing about people. `teach` runs `actrec teach` on UTD-MHAD.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from actrec import datasets, inference
from actrec.cli import Parser, amount, count
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.inference import package
from actrec.recordings.labels import LABELS_FILE, LabeledClip, write_labels
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models import evaluation, networks
from actrec_models.data.batches import BatchFeatures, BatchSamples, collate, has_voxels, uncovered
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.data.samplers import EpochBatchSampler, Sampling
from actrec_models.data.samples import Samples
from actrec_models.evaluation import elsewhere
from actrec_models.finetune import fine_tuning
from actrec_models.finetune.fine_tuning import TeachConfig
from actrec_models.training import provenance, recipe
from actrec_models.training.module import RecognitionModule, may_be_fused
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from benchmarks import in_process, output

RECIPES = Path(__file__).parents[1] / "models/recipes"

CLASSES = 60

LIKE = {"deepacts_cnn": "deepacts", "deepacts_graph": "deepacts", "deepacts_multi": "deepacts",
        "spa_net_3p1d": "spa_net_4d", "vpn_resnext101": "vpn_i3d"}  # fmt: skip
"""Networks that are trained by the recipe of another one."""

ON_GPU = ("deepacts_graph_nucla", "joint_tcn_everyday", "deepacts_graph", "sem_net", "spa_net_4d", "res_tcn_bjcn")
"""Recipes and networks of joints that `actrec bench gpu` trains."""

_DIFFERENT = 8
"""Number of different clips; the learned weights do not matter here."""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Measure training steps of each network at its paper's size, in processes of their own."""
    parser = Parser(
        prog="actrec bench training",
        description="Training steps as `actrec train` makes them, of each network at its paper's size, or by a recipe.",
        epilog="Example:\n  actrec bench training --networks sem_net,spa_net_4d,deepacts_graph_nucla --seconds 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", help="networks or recipes, separated by commas; options as name:key=value;key=value"
    )
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto", help="(default: a GPU if present)")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU (default: 2)")
    parser.add_argument("--workers", type=int, help="processes that read clips (default: as `actrec train`)")
    parser.add_argument(
        "--batch", type=count, help="clips a step (default: the recipe's, on a CPU as many as --seconds allow)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the steps, as `actrec train --compile`")
    parser.add_argument("--seconds", type=amount, default=8.0, help="of each of two measurements (default: 8)")
    args = parser.parse_args(arguments)
    wanted = args.networks.split(",") if args.networks else networks.list_models()
    for entry in wanted:
        recipe_of(entry)  # report a wrong name before minutes of work
    device = torch.device("cuda" if Machine(args.device).trainer_options()["accelerator"] == "gpu" else "cpu")
    rows = []
    for number, entry in enumerate(wanted, start=1):
        print(f"[{number}/{len(wanted)}] {entry}", file=sys.stderr, flush=True)
        options = args.threads, args.workers, args.batch, args.seconds, args.compile
        rows.append(in_process("benchmarks.training:row", entry, device.type, *options))
    name = provenance.device_name(device) if device.type == "cuda" else f"cpu ({args.threads} threads)"
    return {"device": name, "cores": os.cpu_count(), "torch": torch.__version__, "networks": rows}


def measure_on_gpu(seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Return the speed of training networks of joints on a GPU, the first one compiled too.

    Raises:
        DeviceError: PyTorch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise DeviceError("PyTorch finds no GPU: install its build with CUDA")

    def measured(entry: str, compiled: bool = False) -> dict[str, Any]:
        try:
            return row(entry, "cuda", 1, None, None, seconds, compiled=compiled)
        except torch.OutOfMemoryError as error:  # the others may fit
            return {"network": entry, "error": str(error).splitlines()[0]}
        finally:
            torch.cuda.empty_cache()

    return {"training": [*map(measured, ON_GPU)], "training_compiled": [measured(ON_GPU[0], compiled=True)]}


def recipe_of(entry: str) -> Recipe:
    """Return the paper's recipe of a network, or a shipped recipe; of stages the last.

    `entry` is `name` or `name:key=value;key=value`.

    Raises:
        ConfigError: There is no such network, option or recipe.
    """
    name, _, options = entry.partition(":")
    if name in recipe.shipped():
        found = recipe.read(name)
        name = found.model
    else:
        networks.NETWORKS.get(name)
        known = _recipes().get(LIKE.get(name, name))
        if known is None:
            raise ConfigError(f"no recipe of {name} among the papers'")
        found = known
    changed = config.parse_pairs(filter(None, options.split(";")), "network option")
    last = found.plan()[-1]
    return dataclasses.replace(found.for_stage(last), model=name, options={**found.options, **changed}, stages=[])


@cache
def _recipes() -> dict[str, Recipe]:
    """Return the papers' recipes by network, NTU RGB+D 60 first, and the one of `joint_tcn`."""
    papers = [name for name in recipe.shipped() if name.startswith("papers/")]
    found: dict[str, Recipe] = {}
    for name in [*sorted(papers, key=lambda name: (not name.endswith("_ntu60"), name)), "joint_tcn_everyday"]:
        read = recipe.read(name)
        found.setdefault(read.model, read)
    return found


def row(
    entry: str, on: str, threads: int, workers: int | None, batch: int | None, seconds: float, compiled: bool = False
) -> dict[str, Any]:
    """Return the figures of one network.

    Args:
        entry: As for `recipe_of`.
        on: Type of the device that trains the network.
        threads: On a CPU.
        workers: Processes that read clips; None as `actrec train`.
        batch: Clips a step; None for the recipe's, on a CPU as many as a third of `seconds` allows.
        seconds: Shortest duration of each measurement.
        compiled: Whether to compile the steps, as `actrec train --compile`.
    """
    device = torch.device(on)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    chosen = recipe_of(entry)
    learner = _Learner(chosen, device)
    if compiled:
        learner.module.compile_losses(device.type == "cuda")
    size = batch or (chosen.batch if device.type == "cuda" else learner.affordable(chosen.batch, seconds / 3))
    stopped = _Utilization(device)
    fixed = learner.batch(size)
    warm = device.type == "cpu" and not batch and size == 2  # `affordable` has just made two such steps
    alone = size * _paced(lambda: learner.step(fixed), seconds, device, warm)
    used = stopped.mean()
    found = {"network": entry, "batch": size, "recipe_batch": chosen.batch, "precision": chosen.precision,
             "clips_per_s": alone}  # fmt: skip
    used_reading = {}
    for way, suffix in learner.ways.items():
        loader, found["workers"] = way.loader(size, workers)
        step = partial(_read_and_step, learner, way, _endless(loader))
        stopped = _Utilization(device)
        found[f"clips_per_s_with_reading{suffix}"] = size * _paced(step, seconds, device)
        used_reading[f"gpu_used_percent_with_reading{suffix}"] = stopped.mean()
        found[f"read_by_a_core{suffix}"] = way.reading(size, seconds)
        if device.type == "cuda" and way.compute is not None and not has_voxels(way.compute.specs):
            found["largest_difference_to_cpu"] = way.difference()
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 1e9
        found |= {"gpu_memory_gb": memory, "gpu_used_percent": used, **used_reading}
    return found


def _read_and_step(learner: "_Learner", reader: "_Reader", batches: Iterator[dict[str, Any]]) -> None:
    learner.step(reader.inputs(next(batches)))


class _Learner:
    """Training steps of a network on example clips."""

    def __init__(self, chosen: Recipe, device: torch.device):
        self.recipe, self.device = chosen, device
        self.module = RecognitionModule(chosen.as_dict(), [f"class {n}" for n in range(CLASSES)])
        network = self.module.network
        stages = getattr(network, "stages", ())
        if stages:
            network.stage(stages[-1])
        self.module.to(device).train()
        optimizer, *_ = chosen.components()
        fused = device.type == "cuda" and may_be_fused(chosen)
        self.optimizer = optimizer.make(network.parameters(), chosen.learning_rate, chosen.weight_decay, fused)
        self.scaler = torch.amp.GradScaler(device.type, enabled=chosen.precision == "16-mixed")
        clips, network = self._clips(), self.module.network
        arguments = clips, network.input_specs, self.recipe.window(network), self.recipe
        augmentation = self.recipe.check() if self.recipe.augment else None
        one_by_one = _Reader(Samples(*arguments, augmentation, any_clip=True), None, device)
        self.ways = {one_by_one: ""}  # readers of clips to the ends of their figures' names
        if not uncovered(*arguments[1:3], self.recipe.clips, clips.layout):
            compute = BatchFeatures(network.input_specs)
            batched = _Reader(BatchSamples(*arguments, augmentation, any_clip=True), compute, device)
            self.ways = {batched: "", one_by_one: "_clip_by_clip"}

    def _clips(self) -> ClipDataset:
        network = self.module.network
        window = self.recipe.window(network)
        layouts = {spec.layout for spec in network.input_specs}
        clips = []
        for number in range(_DIFFERENT):
            made = example_clip(network.input_specs, window.frames, getattr(network.config, "bodies", 1), number)
            stamps = (np.arange(window.frames) * window.seconds / window.frames * NANOSECONDS).astype(np.int64)
            clips.append(Clip(f"example {number}", number % CLASSES, stamps, made.pop("bodies"), made))
        layout = "hand_22" if "hand_22" in layouts else "kinect_v2_25"
        return ClipDataset(clips * 512, [f"class {n}" for n in range(CLASSES)], layout)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """Return a batch on the device."""
        reader = next(iter(self.ways))
        return reader.inputs(reader.join([reader.samples[number % _DIFFERENT] for number in range(size)]))

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Run loss, gradients and optimizer as Lightning does."""
        half = torch.float16 if self.recipe.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, half, enabled=self.recipe.precision != "32-true"):
            loss = self.module.losses(batch)["loss"]
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.network.parameters(), self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def affordable(self, most: int, seconds: float) -> int:
        """Estimate the batch whose step takes this long from a batch of two clips, the minimum of batch norm."""
        pair = self.batch(2)
        self.step(pair)
        begun = time.perf_counter()
        self.step(pair)
        return int(min(max(2, 2 * seconds / (time.perf_counter() - begun)), most))


class _Reader:
    """Clips as inputs on the device, made clip by clip or in batches by `compute`."""

    def __init__(self, samples: Samples, compute: BatchFeatures | None, device: torch.device):
        self.samples, self.compute, self.device = samples, compute, device
        self.join = torch.utils.data.default_collate if compute is None else collate

    def inputs(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the inputs of a batch of the loader."""
        moved = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        return moved if self.compute is None else self.compute(moved)

    def difference(self) -> float:
        """Return the largest difference of a batch's inputs to the CPU's."""
        assert self.compute is not None
        batch = self.join([self.samples[(0, number, 0)] for number in range(_DIFFERENT)])
        found, expected = self.inputs(batch), self.compute(batch)
        return max(float((found[name].cpu() - expected[name]).abs().max()) for name in expected)

    def loader(self, size: int, workers: int | None) -> tuple[DataLoader, int]:
        """Return the loader of `actrec train` and its number of workers."""
        options = Machine(workers=workers).loader_options(1, self.device.type == "cuda", 1)
        draws = EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)
        return DataLoader(self.samples, batch_sampler=draws, collate_fn=self.join, **options), options["num_workers"]

    def reading(self, size: int, seconds: float) -> float:
        """Return the clips a second that one process reads, without the computation on the device."""
        draws = iter(_endless(EpochBatchSampler(self.samples.clips.labels, Sampling(), 1, size)))

        def read() -> None:
            self.join([self.samples[draw] for draw in next(draws)])

        return size * _paced(read, min(seconds, 3.0), torch.device("cpu"))


def _gpu_utilization(device: torch.device) -> float | None:
    """Return the GPU's utilization in percent; None on a CPU or without NVIDIA's management library."""
    return float(torch.cuda.utilization(device)) if device.type == "cuda" and _has_nvml() else None


@cache
def _has_nvml() -> bool:
    try:
        torch.cuda.utilization()
    except (ImportError, RuntimeError):  # nvidia-ml-py is not installed, or the driver has no such library
        return False
    return True


class _Utilization:
    """Utilization of a GPU, sampled five times a second."""

    def __init__(self, device: torch.device):
        self.device, self.found, self.done = device, list[float](), threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.done.wait(0.2):
            used = _gpu_utilization(self.device)
            if used is None:
                return
            self.found.append(used)

    def mean(self) -> float | None:
        """Stop sampling; return None without samples."""
        self.done.set()
        self.thread.join()
        return sum(self.found) / len(self.found) if self.found else None


def _paced(step: Callable[[], None], seconds: float, device: torch.device, warm: bool = False) -> float:
    """Return the steps a second, after some that are not measured unless `warm`; on a GPU the second records graphs."""
    if not warm:
        for _ in range(3 if device.type == "cuda" else 1):
            step()
        _synchronize(device)
    begun, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - begun < seconds:
        step()
        steps += 1
        if steps % 10 == 0:
            _synchronize(device)  # GPU steps are asynchronous
    _synchronize(device)
    return steps / (time.perf_counter() - begun)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


# -- rendered ----------------------------------------------------------------------------------------------------------


def rendered(arguments: list[str]) -> dict[str, Any]:
    """Render the clips, then train, export and score each network."""
    parser = Parser(
        prog="actrec bench rendered",
        description=f"{RenderedRgbd.caveat} Trains every RGB and flow network, small, and scores its package.",
        epilog="Example: actrec bench rendered --networks c3d_flow_at1,p_i3d --threads 2",
    )
    parser.add_argument("--networks", default="", help="names with commas between (default: every recipe there is)")
    parser.add_argument("--out", type=Path, default=Path("runs/rendered"), help="clips and runs (default: %(default)s)")
    parser.add_argument("--recipes", type=Path, help="folder of the recipes (default: the recipes of actrec)")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the dataset; repeatable")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that render; 0: one (default: %(default)s)")
    args = parser.parse_args(arguments)
    recipes = args.recipes or RECIPES / "rendered"
    names = _names(recipes, args.networks)
    data = args.out / "data"
    options = [word for entry in args.option for word in ("--option", entry)]
    streams = ["--streams", "bodies,hands,motion,flow,color"]
    _actrec("prepare", "rendered", "--out", data / "rendered", *streams, "--workers", args.workers, *options)
    rows = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        rows.append(_row(recipes / f"{name}.yaml", data, args.out / name, args.threads))
    return {"caveat": RenderedRgbd.caveat, "options": config.parse_pairs(args.option, "--option"), "networks": rows}


def _names(folder: Path, wanted: str) -> list[str]:
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    names = wanted.split(",") if wanted else known
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise ConfigError(f"no recipe {', '.join(unknown)} in '{folder}'; there are: {', '.join(known) or 'none'}")
    return names


def _row(path: Path, data: Path, out: Path, threads: int) -> dict[str, Any]:
    """Train a network, or resume its training, export and score it."""
    read = recipe.read(path)
    _actrec("train", path, "--data", data, "--out", out, "--threads", threads, "--quiet")
    _actrec("export", out / "last.ckpt", "--data", data, "--out", out / path.stem, "--overwrite")
    scored = json.loads(_actrec("eval", out / path.stem, "--data", data, "--json", "--quiet"))
    made = package.load(out / path.stem)
    return {
        "network": path.stem,
        "inputs": ", ".join(spec.modality for spec in made.inputs),
        "parameters": made.provenance.figures["parameters"],
        "epochs": sum(stage.epochs for stage in read.plan()),
        "chance": 1 / len(made.labels),
        "held_out_actors": scored["accuracy"],
        "test_clips": scored["clips"],
        "minutes": round(60 * made.provenance.hours, 2),
    }


def _actrec(command: str, *arguments: object) -> str:
    """Run a command in a process of its own and return its output; raise ActrecError if it fails."""
    return output(f"actrec {command} {arguments[0]}", "-m", "actrec", command, *map(str, arguments))


# -- teach -------------------------------------------------------------------------------------------------------------

SETS = {
    "easy": ("wave", "clap", "boxing", "sit to stand", "squat"),
    "new": ("cross arms on the chest", "baseball swing", "arm curl", "tennis serve", "knock on door"),
    "hard": ("swipe left", "swipe right", "draw x", "draw circle clockwise", "draw triangle"),
}
"""Actions that clearly differ; actions without a class in `everyday`; strokes of one hand that differ by its path."""


def teach(arguments: Sequence[str]) -> dict[str, Any]:
    """Fine-tune packages as `actrec teach`, and compare their reports with their accuracy on new people.

    Each case is a base package, a set of five actions, a number of clips, a time limit, and a load. The first clips of
    UTD-MHAD's odd subjects are written as a user's folder. The package is scored on all clips of the even subjects: the
    five actions, and as `unknown` the other 22. With `--unknown N`, N clips each of every second of the other actions
    are labeled `unknown`; clips of the rest are new to the package.

    The taught clips are in the training of `joint_tcn_everyday`, the `new` actions as `unknown`. For bases that never
    saw UTD-MHAD, as `joint_tcn_open` or a network of split leave_one_set_out, give --from.
    """
    parser = Parser("actrec bench teach", description="Teaches five actions of UTD-MHAD.")
    parser.add_argument("--data", default=os.environ.get("ACTREC_DATA", "data"), help="folder of datasets")
    lists = {
        "from": (TeachConfig.base, "base packages"),
        "sets": (",".join(SETS), "sets of actions"),
        "clips": ("3,10", "clips of each action"),
        "minutes": ("10", "time limits"),
        "load": ("idle", "idle, or busy: every CPU core runs another process"),
    }
    for name, (default, text) in lists.items():
        parser.add_argument(f"--{name}", default=default, help=f"{text}, with commas between (default: {default})")
    parser.add_argument(
        "--unknown", type=int, default=0, metavar="N", help="clips labeled unknown of each of 11 others"
    )
    for name in ("steps", "rehearsals", "seed"):
        parser.add_argument(f"--{name}", type=int, help="as of actrec teach")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    args = parser.parse_args(list(arguments))
    root = datasets.folder(args.data, "utd_mhad")
    train, test = (datasets.create("utd_mhad", root, part=part) for part in datasets.PARTS)
    given = {name: value for name in ("steps", "rehearsals", "seed") if (value := getattr(args, name)) is not None}
    rows = []
    for case in itertools.product(*(str(vars(args)[name]).split(",") for name in lists)):
        base, name, clips, minutes, load = case
        settings = config.build(TeachConfig, {**given, "base": base, "minutes": float(minutes)})
        shown = [c for c in train.classes if c not in SETS[name]][::2] if args.unknown else []
        actions = {**dict.fromkeys(SETS[name], int(clips)), **dict.fromkeys(shown, args.unknown)}
        with tempfile.TemporaryDirectory() as scratch, _loaded(load):
            folder = Path(scratch) / "mine"
            write_folder(folder, train, actions, shown)
            lesson = fine_tuning.teach(folder, settings, threads=args.threads)
            written = fine_tuning.write(lesson, Path(scratch) / "taught", "actrec bench teach", settings.seed)
            is_trained = "utd_mhad" in elsewhere.trained_sets(lesson.base)
            row = {"base": base, "base trained on UTD-MHAD": is_trained, "set": name, "clips": int(clips),
                   "minutes allowed": float(minutes), "load": load}  # fmt: skip
            found = scores(inference.load(written.path), test, shown)
            rows.append({**row, **found, **_lesson(lesson, found["accuracy"])})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    gaps = [abs(row["report minus truth"]) for row in rows]
    chosen = {name: getattr(settings, name) for name in ("steps", "rehearsals", "seed")}
    return {"unknown": args.unknown, **chosen, "largest gap": max(gaps), "cases": rows}


@contextlib.contextmanager
def _loaded(load: str) -> Iterator[None]:
    """Keep every CPU core busy with another process meanwhile, if the load is "busy"."""
    if load not in ("idle", "busy"):
        raise ConfigError(f"--load is '{load}'; known: idle, busy")
    count = os.cpu_count() or 1 if load == "busy" else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def write_folder(folder: Path, clips: ClipDataset, actions: Mapping[str, int], unknown: Sequence[str] = ()) -> None:
    """Write clips of UTD-MHAD as a user's recordings, from all subjects in turn.

    Args:
        folder: Is made.
        clips: Of UTD-MHAD.
        actions: Name to number of clips.
        unknown: Actions labeled `unknown`.
    """
    folder.mkdir(parents=True)
    lines = []
    for action, number in actions.items():
        mine = list(np.flatnonzero(clips.labels == clips.classes.index(action)))
        mine.sort(key=lambda i: (clips.metas[i]["trial"], clips.metas[i]["subject"]))
        for i in mine[:number]:
            clip = clips[int(i)]
            write_bag(folder / clip.name, clip)
            label = UNKNOWN if action in unknown else action
            lines.append(LabeledClip(clip.name, label, person=f"subject {clips.metas[i]['subject']}"))
    write_labels(folder / LABELS_FILE, lines)


def write_bag(path: Path, clip: Clip) -> None:
    """Write a clip's first body as `actrec record` does."""
    pixels = np.full((25, 2), np.nan, np.float32)
    with BagWriter(path) as bag:
        for stamp, positions in zip(clip.stamps_ns, clip.bodies[0], strict=True):
            known = np.isfinite(positions).all(axis=-1).astype(np.float32)
            body = Body("body_1", "kinect_v2_25", positions, pixels, known)
            bag.write_bodies(SKELETONS_TOPIC, int(stamp) + 1_000_000_000, "camera", [body])


def scores(session: inference.Session, test: ClipDataset, shown: Sequence[str] = ()) -> dict[str, Any]:
    """Score a package on new people, and on other actions, of which `shown` were labeled unknown."""
    names = np.array([test.classes[label] for label in test.labels])
    known = np.flatnonzero(np.isin(names, session.package.labels))
    others = np.flatnonzero(~np.isin(names, session.package.labels))
    ours, theirs = (_probabilities(session, test, chosen) for chosen in (known, others))
    right = np.array(session.package.labels)[ours.argmax(axis=1)] == names[known]
    accepted, refused = ~session.is_rejected(ours), session.is_rejected(theirs)
    new = ~np.isin(names[others], shown)
    figures = {}
    if shown:
        figures = {"others shown as unknown": int((~new).sum()), "of these rejected": float(refused[~new].mean())}
    return {
        **figures,
        "test_clips": len(known),
        "accuracy": float(right.mean()),
        "right_and_accepted": float((right & accepted).mean()),
        "rejected": float((~accepted).mean()),
        "wrong_and_accepted": float((~right & accepted).mean()),
        "other_clips": int(new.sum()),
        "unknown_rejected": float(refused[new].mean()),
    }


def _probabilities(session: inference.Session, test: ClipDataset, chosen: np.ndarray) -> np.ndarray:
    clips = ClipDataset([test[int(i)] for i in chosen], test.classes, test.layout)
    return session.softmax(evaluation.score(session, clips).logits)


def _lesson(lesson: fine_tuning.FineTuned, truth: float) -> dict[str, Any]:
    figures = fine_tuning.report(lesson)
    names = ("accuracy_interval", "procedure", "head_accuracy", "fine_tuned_accuracy", "not_fine_tuned",
             "threshold", "steps", "minutes", "processor_minutes")  # fmt: skip
    own = {"evaluated_by": figures["evaluated_by"], "report": figures["accuracy"]}
    return {**own, "report minus truth": figures["accuracy"] - truth, **{name: figures[name] for name in names}}
