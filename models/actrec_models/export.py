"""From a checkpoint to a model package: ONNX, parity check, rejection threshold, card."""

import dataclasses
import datetime
import io
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from actrec import config, inference, package
from actrec.errors import PackageError
from actrec_models import checkpoint, data, evaluation, rejection, training
from actrec_models.card import card
from actrec_models.recipe import Recipe

OPSET = 17
PARITY = 1e-4
"""Largest difference of logits between PyTorch and ONNX Runtime, in float32."""


def load_checkpoint(path: Path) -> tuple[Recipe, list[str], nn.Module]:
    """The recipe, class names and network of a training checkpoint, without unpickling.

    Raises:
        PackageError: The file is missing or no checkpoint of `actrec train`.
    """
    content = checkpoint.read(path)
    parameters = content["hyper_parameters"]
    recipe = config.build(Recipe, parameters["recipe"])
    module = training.Recognition(parameters["recipe"], parameters["classes"])
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise PackageError(f"{path} does not fit the network that its recipe names: train it again") from error
    return recipe, parameters["classes"], module.network.eval()


class _Positional(nn.Module):
    """Takes the network's inputs in the order of its specs, as ONNX export wants them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.names = [spec.name for spec in network.input_specs]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(**dict(zip(self.names, inputs, strict=True)))


def to_onnx(network: nn.Module) -> bytes:
    """The network as ONNX with static M, T, V and a dynamic batch, checked against PyTorch.

    Raises:
        PackageError: ONNX Runtime's logits differ by more than 1e-4.
    """
    network = network.eval()
    examples = tuple(torch.randn(2, *spec.shape) for spec in network.input_specs)
    names = [spec.name for spec in network.input_specs]
    buffer = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            _Positional(network).eval(),
            examples,
            buffer,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"} for name in [*names, "logits"]},
            opset_version=OPSET,
            dynamo=False,
        )
    content = buffer.getvalue()
    _check_parity(network, names, content)
    return content


def _check_parity(network: nn.Module, names: list[str], content: bytes) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        inputs = {n: torch.randn(batch, *s.shape) for n, s in zip(names, network.input_specs, strict=True)}
        with torch.no_grad():
            expected = network(**inputs).numpy()
        found = session.run(None, {n: x.numpy() for n, x in inputs.items()})[0]
        difference = float(np.abs(found - expected).max())
        if not difference <= PARITY:
            raise PackageError(
                f"ONNX and PyTorch differ by {difference:.2g} (batch {batch}), allowed: {PARITY:g}: not written"
            )


def export(source: Path, folder: Path, data_root: str, overwrite: bool = False) -> package.ModelPackage:
    """Writes a model package with its rejection threshold and its accuracy on the test part.

    Args:
        source: Checkpoint of `actrec train`.
        folder: Where to; its name becomes the package's.
        data_root: Folder that holds a folder a dataset.
        overwrite: Replace a package that is there.

    Raises:
        PackageError: No checkpoint, or what was exported disagrees with PyTorch.
    """
    recipe, classes, network = load_checkpoint(source)
    content = to_onnx(network)
    weights = safetensors.torch.save({k: v.clone().contiguous() for k, v in network.state_dict().items()})
    draft = _describe(recipe, classes, network)
    with tempfile.TemporaryDirectory() as scratch:
        session = inference.load(package.write(Path(scratch) / folder.name, draft, content))
        judged, figures = _judge(recipe, session, network, data_root)
    provenance = dataclasses.replace(draft.provenance, accuracy=figures["accuracy"], figures=figures)
    final = dataclasses.replace(draft, rejection=judged, provenance=provenance)
    return package.write(folder, final, content, weights, card(final, folder.name), overwrite)


def _describe(recipe: Recipe, classes: list[str], network: nn.Module) -> package.ModelPackage:
    provenance = package.Provenance(
        dataset=recipe.dataset,
        split=recipe.split,
        seed=recipe.seed,
        epochs=recipe.epochs,
        accuracy=0.0,
        licence="research use: the dataset carries no clear licence to redistribute or to use commercially",
        recipe=recipe.command,
        commit=_commit(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    return package.ModelPackage(
        schema_version=package.SCHEMA_VERSION,
        family=recipe.model,
        variant=", ".join(f"{k} {v}" for k, v in sorted(recipe.options.items())) or "as published",
        labels=tuple(classes),
        window=package.WindowSpec(recipe.window_s, recipe.frames),
        bodies=network.input_specs[0].shape[0],
        inputs=tuple(network.input_specs),
        rejection=package.Rejection(),
        provenance=provenance,
    )


def _judge(
    recipe: Recipe, session: inference.Session, network: nn.Module, data_root: str
) -> tuple[package.Rejection, dict[str, Any]]:
    """The rejection, and the figures of the card."""
    test = data.create(recipe.dataset, f"{data_root}/{recipe.dataset}", split=recipe.split, part="test")
    scores = evaluation.logits(session, test)
    right = scores.argmax(axis=1) == [test[i].label for i in range(len(test))]
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "test_clips": len(test),
        "parameters": sum(p.numel() for p in network.parameters()),
        "streams": len(network.input_specs),
    }
    if not recipe.unknown_dataset:
        return package.Rejection(), figures
    chosen, described = rejection.calibrate(recipe, session, data_root)
    accepted = chosen.confidence(scores) >= chosen.threshold
    unknown = chosen.confidence(rejection.unknown_logits(recipe, session, data_root, "test"))
    figures.update(
        test_rejected=float((~accepted).mean()),
        test_right_and_accepted=float((accepted & right).mean()),
        unknown_rejected=float((unknown < chosen.threshold).mean()),
        unknown_clips=len(unknown),
    )
    return package.Rejection(chosen.threshold, 1.0, described, chosen.background), figures


def _commit() -> str:
    """The source's commit, with "+" where it has uncommitted changes; empty outside a checkout."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout
    return head.stdout.strip() + ("+" if changed else "")
