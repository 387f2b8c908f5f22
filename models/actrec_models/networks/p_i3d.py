"""P-I3D (Das et al., "Where to Focus on for Human Action Recognition?", WACV 2019).

Three I3D see the left hand, the right hand and the whole body; an LSTM on the poses weights them.

Readings, choices where the paper is silent or ambiguous:

- **Eq. 5.** The missing minus of the cross-entropy is added; it and Σ(1 − α_k)² are averaged over the batch.
- **Eq. 5, W_uv.** "The weight matrix connecting layers u and v" has no sum over u, v. As in STA-LSTM (Song et al.
  2017): the Euclidean norm, not squared, of all kernels and matrices behind the logits. No biases, norms or
  pretraining classifiers. A frozen LSTM counts but stays fixed.
- **Stages with Eq. 5.** `attention` and `joint`; pretraining minimizes cross-entropy alone.
- **h^s.** The last LSTM layer's states of all steps, concatenated (t_p · 512), as the text says; the authors' code
  takes the last step alone.
- **W_h.** 128 rows, as the authors' code.
- **"Equal values", "Gaussian" (step 4).** W_s, b_s, b_us start at zero, so each α_k is 1/3; W_h ~ N(0, 1/fan-in).
- **LSTM pretraining.** A linear classifier on h^s. Initial weights: Keras's (Glorot, orthogonal, forget bias 1).
- **50 % dropout.** Between LSTM layers, on h^s, before I3D's logits.
- **Step 5.** The I3Ds' features are fixed while LSTM, attention and classifier learn; in step 6 the LSTM is fixed and
  the rest learns, including attention. Section 3.3 trains the two apart; the authors' code freezes the I3Ds. Frozen
  parts keep batch norm statistics and have no dropout.
- **N1, N2 "iterations"** are epochs. Steps 2 and 3 have no count (the paper stops early): 30 and 50.
- **"Adjusted automatically".** Validation plateau, ×0.1 after 5 epochs; early stop after 12. A random tenth of the
  clips is held out, not by subject.
- **"Individually" (step 2).** A stage for each I3D, with its own plateau and early stop; `parts` trains all at once.
- **I3D training and augmentation "follow [4]".** SGD, momentum 0.9, ×0.1 on the plateau. [4] gives no rate and used
  32 GPUs: 0.01 in batches of 16, as the authors' code. Crops move by up to 16/224 of their side, once per clip.
  Clips of stages and networks that take no pose are mirrored at random, as in [4], with the hands exchanged (`mirror:
  false` disables). Nothing else varies.
- **sum_r, "after 9 − r inception blocks".** For r = 2 the pool between blocks seven and eight comes first, as the
  authors' code: (8, 7, 7) × 832. The r later blocks are another copy with Kinetics weights; the parts keep theirs for
  step 2.
- **"Global average pooling", Fig. 2.** I3D's pool (2×7×7, stride 1), then the mean over time. It is linear, so its
  order with the sum (Eq. 4's 4-D g_k) does not matter.
- **Without attention** parts have weight 1: `sum_0` and untrained attention differ by a factor of 3. A single part is
  its I3D with its own classifier.
- **Crop size.** Body: a square of 1.2 times the larger side of the joints' box. Hand: 0.45 m at the body's distance;
  pixels per meter is the second largest of ten segments' ratios to an adult's lengths. Center: the hand's 21 points,
  else wrist, hand and tip.
- **Unknown areas** are black (−1): outside the image, a missing body or hand. "Full image" keeps proportions, black
  above and below.
- **Body.** Crops and pose are of body 0, in NTU the one that moves most: another is seen only inside these crops.
- **Pose.** 25 joints; the authors' code gives both bodies (150 values). Normalized as elsewhere (authors'
  code: minus the first frame's spine).
- **"Cut the videos into sub-sequences of 20 and 5 frames", as [32].** One pose of each of t_p equal segments of the
  whole recording, at random in training, as the authors' code; in tests the middle one (there too a random one).
  Segment lengths are that code's, which drops or pads up to t_p/2 frames at the end; ours repeat the last pose, not
  zeros. `poses: even` takes t_p frames of each clip.
- **Sub-sequences.** As that code: 64 successive frames of a recording, every second one above 128 frames; below 64
  all, in order, some repeated. Training starts at random, tests at five even places (that code: one at random).
  Evaluation and training need `clips: subsequences` for this.
- **Window.** "5 sub-sequences, logits averaged": five clips of 64 frames at 30 Hz, a quarter of a clip apart, 4.3 s.
  `clips=1` is a fifth of the work.
- **Random I3D weights.** Sonnet's truncated normal, 1/√fan-in.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec.features.specs import InputSpec, WindowSpec
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers.cnn3d import NORM_MOMENTUM, InceptionI3d, chain, image_spec, pose_spec
from actrec_models.networks.base import Network, cross_entropy

PARTS = ("left_hand_crop", "right_hand_crop", "body_crop", "image")
AGGREGATED_AFTER = {"sum_0": "Mixed_5c", "sum_1": "Mixed_5b", "sum_2": "MaxPool3d_5a_2x2", "concat_0": "Mixed_5c"}
"""sum_r adds the parts' features behind 9 − r of the nine inception blocks (and the pool that follows the seventh)."""

JOINTS = 25
FPS = 30.0  # of the Kinect v2, at which the paper's 64 frames were taken


@dataclass(frozen=True)
class PI3dConfig:
    """Options of `p_i3d`; the defaults are the paper's for NTU RGB+D."""

    num_classes: int = setting(60, "classes (10 on N-UCLA)", range=(1, 100_000))
    frames: int = setting(64, "T, frames of a clip", range=(1, 1024))
    parts: tuple[str, ...] = setting(
        PARTS[:3], 'crops of the image; one alone is a row of Tables 1 and 2 ("image": Full image)'
    )
    aggregation: str = setting("sum_0", "how and where the parts meet (Table 1)", choices=tuple(AGGREGATED_AFTER))
    attention: bool = setting(True, "weigh the parts by the pose (Eq. 4) instead of adding them as they are")
    pose_frames: int = setting(20, "t_p, poses that the LSTM reads (5 on N-UCLA)", range=(1, 1024))
    poses: str = setting(
        "segments",
        "one pose of each of t_p equal segments of the whole recording (live: of the window), or poses evenly spaced "
        "over the clip",
        choices=("segments", "even"),
    )
    hidden: int = setting(512, "units of each of the three LSTM layers (128 on N-UCLA)", range=(1, 4096))
    attention_units: int = setting(128, "rows of W_h in Eq. 2", range=(1, 4096))
    dropout: float = setting(0.5, "between the LSTM layers, behind them, and before I3D's logits", range=(0.0, 0.9))
    lambda_1: float = setting(1e-5, "weight of the attention's regularizer in Eq. 5 (1e-4 on N-UCLA)", range=(0.0, 1.0))
    lambda_2: float = setting(1e-3, "weight of the weights' regularizer in Eq. 5", range=(0.0, 1.0))
    clips: int = setting(5, "sub-sequences whose logits are averaged at test time", range=(1, 32))
    size: int = setting(224, "side of the images", unit="px", range=(16, 1024))
    width: float = setting(1.0, "factor on I3D's channels", range=(0.01, 4.0))
    norm_momentum: float = setting(
        NORM_MOMENTUM, "of the batch norms; after n steps (1 - it)^n of the statistics that they began with is left",
        range=(1e-4, 1.0),
    )  # fmt: skip


class PoseLstm(nn.Module):
    """The three stacked LSTM layers, with the classifier that they are pre-trained with (Algorithm 1, step 3)."""

    def __init__(self, options: PI3dConfig):
        super().__init__()
        self.lstm = nn.LSTM(3 * JOINTS, options.hidden, num_layers=3, batch_first=True, dropout=options.dropout)
        self.dropout = nn.Dropout(options.dropout)
        self.features = options.pose_frames * options.hidden
        self.classifier = nn.Linear(self.features, options.num_classes)
        for name, parameter in self.lstm.named_parameters():  # as Keras, which the paper used, begins
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
                # The gates lie in the order input, forget, cell, output; of the two biases one is enough.
                nn.init.constant_(parameter[options.hidden : 2 * options.hidden], float(name.startswith("bias_ih")))

    def forward(self, x: Tensor) -> Tensor:
        """Return h^s, the last layer's hidden states at all time steps, (N, t_p·hidden), of poses x (N, 3, t_p, J)."""
        n, c, t, j = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, t, j * c)  # (N, t_p, J·3): x_t = (x_t,1, …, x_t,J)
        h, _ = self.lstm(x)  # (N, t_p, hidden)
        return self.dropout(h.reshape(-1, self.features))  # (N, t_p·hidden)


class PartAttention(nn.Module):
    """Eq. 2 and 3: h^s (N, t_p·hidden) to the weights α of the K parts, (N, K)."""

    def __init__(self, features: int, units: int, parts: int):
        super().__init__()
        self.w_h = nn.Linear(features, units)
        self.w_s = nn.Linear(units, parts)
        # Algorithm 1, step 4: equal scores, the rest Gaussian.
        nn.init.normal_(self.w_h.weight, std=features**-0.5)
        for parameter in (self.w_h.bias, self.w_s.weight, self.w_s.bias):
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """Return α (N, K)."""
        s = self.w_s(torch.tanh(self.w_h(h)))  # Eq. 2: (N, K)
        return functional.softmax(s, dim=1)  # Eq. 3


class PI3d(Network):
    """The network of Fig. 2, its ablations (Tables 1 and 2), its loss (Eq. 5) and the stages of Algorithm 1."""

    config_class = PI3dConfig
    config: PI3dConfig

    def __init__(self, **options: object):
        super().__init__(**options)
        o = self.config
        _check(o)
        self.aggregated_after = AGGREGATED_AFTER[o.aggregation]
        parts = {p: InceptionI3d(o.num_classes, o.width, dropout=o.dropout, momentum=o.norm_momentum) for p in o.parts}
        self.parts = nn.ModuleDict(parts)
        self.stages: tuple[str, ...] = ("parts",)
        if len(o.parts) > 1:
            channels = parts[o.parts[0]].channels[self.aggregated_after]
            channels *= len(o.parts) if o.aggregation.startswith("concat") else 1
            # What follows the aggregation: r inception blocks and the logits.
            self.second = InceptionI3d(
                o.num_classes, o.width, channels, o.dropout, self.aggregated_after, o.norm_momentum
            )
            self.stages = ("parts", *o.parts, "joint")
        if o.attention:
            self.pose = PoseLstm(o)
            self.attention = PartAttention(self.pose.features, o.attention_units, len(o.parts))
            self.stages = ("parts", *o.parts, "pose", "attention", "joint")
        # Kinetics' weights for every I3D (Algorithm 1, step 1) and for the blocks behind the aggregation.
        targets = tuple(f"parts.{part}" for part in o.parts)
        self.weight_targets = {"i3d": (*targets, "second") if self.aggregated_after != "Mixed_5c" else targets}
        self._stage = ""
        self._set_trainable()

    @property
    def input_specs(self) -> list[InputSpec]:
        """One image input per part, (3, T, S, S), and, with attention, "pose" (3, t_p, 25)."""
        o = self.config
        specs = [image_spec(part, o.frames, o.size) for part in o.parts]
        scope = "window" if o.poses == "segments" else "clip"
        return [*specs, pose_spec(o.pose_frames, scope, o.poses)] if o.attention else specs

    @property
    def stage_input_specs(self) -> list[InputSpec]:
        """As in the base class: the I3D take images alone, the LSTM poses alone."""
        read = ("pose",) if self._stage == "pose" else self._pretrained
        return [spec for spec in self.input_specs if not read or spec.name in read]

    @property
    def _pretrained(self) -> tuple[str, ...]:
        """Parts that the stage trains on their own (step 2)."""
        parts = self.config.parts
        if self._stage in parts:
            return (self._stage,)
        return parts if self._stage == "parts" or len(parts) == 1 else ()

    @property
    def window(self) -> WindowSpec:
        """Clips of T frames at 30 Hz, a quarter of T apart; their logits are averaged."""
        clip = self.config.frames
        stride = max(clip // 4, 1)
        frames = clip + (self.config.clips - 1) * stride
        return WindowSpec(frames / FPS, frames, clip, stride, combine="logits")

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits (N, classes)."""
        if len(self.config.parts) == 1:
            (part,) = self.config.parts
            return self.parts[part](inputs[part])
        return self._classify(inputs, self.attend(inputs["pose"]) if self.config.attention else None)

    def attend(self, pose: Tensor) -> Tensor:
        """Return the weights α (N, K) of the parts, in the order of `config.parts`, by poses (N, 3, t_p, J)."""
        return self.attention(self.pose(pose))

    def _classify(self, inputs: dict[str, Tensor], alpha: Tensor | None) -> Tensor:
        """Compute Eq. 1 and 4, and the layers that follow; without α all parts have weight 1."""
        i3ds = [i3d for i3d in self.parts.values() if isinstance(i3d, InceptionI3d)]
        g = [i3d.forward_features(inputs[p], self.aggregated_after) for p, i3d in zip(self.parts, i3ds, strict=True)]
        if alpha is not None:
            weights = alpha.reshape(-1, len(g), 1, 1, 1, 1).unbind(dim=1)  # K × (N, 1, 1, 1, 1)
            g = [weight * g_k for weight, g_k in zip(weights, g, strict=True)]
        if self.config.aggregation.startswith("concat"):
            f = torch.cat(g, dim=1)  # (N, K·C, T/8, S/32, S/32)
        else:
            f = torch.stack(g).sum(dim=0)  # Eq. 4: (N, C, T/8, S/32, S/32)
        return self.second(f)

    def stage(self, name: str) -> None:
        """Set the trained parameters, and the losses, to a stage of Algorithm 1. Weights do not change.

        A part's name: its I3D with its own classifier on its own crops (step 2); "parts": all of them at once. "pose":
        the LSTM with its classifier (step 3). "attention": the LSTM, the attention and the last classifier on the
        I3Ds' fixed features, for N1 epochs (step 5). "joint": everything but the LSTM, for N2 epochs (step 6). "": all
        of it at once, as a new network is.

        Raises:
            ConfigError: It has no such stage.
        """
        if name and name not in self.stages:
            raise ConfigError(f"p_i3d with these options has no stage '{name}'; it has: {', '.join(self.stages)}")
        self._stage = name
        self._set_trainable()
        self.train(self.training)

    def train(self, mode: bool = True) -> "PI3d":
        """As `nn.Module.train`, but untrained parts keep their statistics and apply no dropout."""
        super().train(mode)
        for module in (*self.children(), *self.parts.children()):
            if not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the stage's loss: Eq. 5 where the parts meet, else cross-entropy.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part).

        Returns:
            "loss", "logits" (N, classes) of the trained part, and, of Eq. 5, "cross_entropy",
            "attention_regularizer" and "weight_regularizer".
        """
        label = batch["label"]
        if self._pretrained:
            scores = [self.parts[part](batch[part]) for part in self._pretrained]
            losses = [cross_entropy(s, label) for s in scores]
            return {"loss": sum(losses[1:], losses[0]), "logits": torch.stack(scores).mean(dim=0)}
        if self._stage == "pose":
            logits = self.pose.classifier(self.pose(batch["pose"]))
            return {"loss": cross_entropy(logits, label), "logits": logits}
        alpha = self.attend(batch["pose"]) if self.config.attention else None
        logits = self._classify(batch, alpha)
        terms = {"cross_entropy": cross_entropy(logits, label), "weight_regularizer": self._weight_norm()}
        loss = terms["cross_entropy"] + self.config.lambda_2 * terms["weight_regularizer"]
        if alpha is not None:
            terms["attention_regularizer"] = (1 - alpha).square().sum(dim=1).mean()
            loss = loss + self.config.lambda_1 * terms["attention_regularizer"]
        return {"loss": loss, "logits": logits, **terms}

    def _weight_norm(self) -> Tensor:
        """Return ‖W_uv‖₂ of one matrix of all weights between layers u and v that lead to the logits."""
        weights = [p for module in self._used() for p in module.parameters() if p.ndim > 1]
        return torch.stack([w.square().sum() for w in weights]).sum().sqrt()

    def _used(self) -> list[nn.Module]:
        """Return the modules of `forward`: no pre-training classifier, no blocks of a part behind the aggregation."""
        if len(self.config.parts) == 1:
            return [self.parts]
        names = chain("", self.aggregated_after)  # the layers of f_g in Eq. 1
        features = [i3d.get_submodule(name) for i3d in self.parts.values() for name in names]
        return [*features, self.second, *([self.pose.lstm, self.attention] if self.config.attention else [])]

    def _set_trainable(self) -> None:
        trained: list[nn.Module]
        if self._pretrained:
            trained = [self.parts[part] for part in self._pretrained]
        elif self._stage == "pose":
            trained = [self.pose]
        elif self._stage == "attention":
            trained = [self.pose.lstm, self.attention, self.second]
        else:
            trained = self._used()
        self.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
        if self._stage == "joint" and self.config.attention:
            self.pose.requires_grad_(False)


def _check(options: PI3dConfig) -> None:
    """Check the values that types alone do not restrict."""
    parts = options.parts
    if not parts or len(set(parts)) < len(parts) or set(parts) - set(PARTS):
        raise ConfigError(f"PI3dConfig.parts is {list(parts)}, allowed: one or more of {', '.join(PARTS)}, each once")
    if len(parts) == 1 and (options.attention or options.aggregation != "sum_0"):
        raise ConfigError(
            f"{parts[0]} alone leaves nothing to weigh or join: set attention to false, aggregation to sum_0"
        )
    if options.attention and options.poses == "even" and options.pose_frames > options.frames:
        raise ConfigError(
            f"PI3dConfig.pose_frames is {options.pose_frames}, allowed: 1 to {options.frames} (frames of a clip)"
        )
