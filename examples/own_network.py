"""Register a network of your own, and train it by a recipe as `actrec train` trains the networks of the papers.

Usage: python examples/own_network.py DATA [OUT], with the folder that holds utd_mhad/ and the folder for the run.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from actrec.features.specs import InputSpec
from actrec_models.networks import NETWORKS
from actrec_models.networks.base import Network
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import train


@dataclass(frozen=True)
class MotionMlpConfig:
    """Options of `motion_mlp`; recipes and `create` set them by name."""

    num_classes: int = 27
    frames: int = 32
    width: int = 256


class MotionMlp(Network):
    """Two layers on the mean and the motion of each joint."""

    config_class = MotionMlpConfig

    def __init__(self, **options: object):
        super().__init__(**options)
        c = self.config
        self.layers = nn.Sequential(nn.Linear(6 * 25, c.width), nn.ReLU(), nn.Linear(c.width, c.num_classes))

    @property
    def input_specs(self) -> list[InputSpec]:
        """One body; features are made from skeletons by this specification, in training and live."""
        return [InputSpec("body", "body", "kinect_v2_25", (1, 3, self.config.frames, 25), unit="m")]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to the logits (N, classes)."""
        x = inputs["body"][:, 0]  # (N, 3, T, V)
        motion = x.diff(dim=2).abs().mean(dim=2)  # (N, 3, V)
        return self.layers(torch.cat([x.mean(dim=2), 20 * motion], dim=1).flatten(1))


NETWORKS.add("motion_mlp", f"{__name__}:MotionMlp")

if __name__ == "__main__":
    recipe = Recipe(
        model="motion_mlp", dataset="utd_mhad", split="subject", unknown_dataset="", frames=32,
        epochs=4, learning_rate=0.01, augment=False,
    )  # fmt: skip
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/motion_mlp")
    print(train(recipe, sys.argv[1], out, progress=False, threads=1))
    print(*sorted(out.glob("log/*/metrics.csv"))[-1].read_text().splitlines(), sep="\n")
