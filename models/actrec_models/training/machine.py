"""Devices and processes of a training."""

import os
import signal
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from lightning.pytorch.plugins.environments import LSFEnvironment, MPIEnvironment, SLURMEnvironment

from actrec.utils import usable_cores
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Devices, processes and checkpoint intervals of a run; the result is equal except for rounding."""

    accelerator: str = setting("auto", "gpu if there is one, else cpu", choices=("auto", "gpu", "cpu"))
    devices: int = setting(0, "GPUs, or processes on a CPU, of each node; 0: all GPUs, one process", range=(0, 1024))
    nodes: int = setting(1, "machines; start the command on each with torchrun", range=(1, 4096))
    workers: int | None = setting(
        None, "processes that read clips, for each device; by default none on a CPU, its cores shared out on GPUs",
        range=(0, 256),
    )  # fmt: skip
    features: str = setting(
        "auto",
        "augment skeletons and compute features in batches on the training device, or clip by clip in the processes "
        "that read clips; auto: the device if it covers the network and is not slower",
        choices=("auto", "device", "workers"),
    )
    compile: bool = setting(
        False, "compile training steps with torch.compile; on a GPU as CUDA graphs, for small networks there"
    )
    checkpoint_minutes: float = setting(10.0, "between checkpoints within an epoch; 0: none", range=(0.0, 1e6))
    checkpoint_steps: int = setting(0, "likewise, in steps", range=(0, 10**9))

    def trainer_options(self) -> dict[str, Any]:
        """Return arguments for `lightning.Trainer`, also under torchrun; raise ConfigError for absent devices."""
        gpus = torch.cuda.device_count() if self.accelerator != "cpu" else 0
        if self.accelerator == "gpu" and not gpus:
            raise ConfigError("--accelerator gpu, but PyTorch finds none: install its CUDA build, or leave the option")
        devices, nodes = self.devices or max(gpus, 1), self.nodes
        clusters = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            if self.devices not in (0, local):
                raise ConfigError(f"torchrun made {local} processes, but --devices asks for {self.devices}")
            devices, nodes = local, int(os.environ["WORLD_SIZE"]) // local
        elif nodes > 1 and "MASTER_ADDR" not in os.environ and not any(kind.detect() for kind in clusters):
            raise ConfigError(f"--nodes {nodes} would wait for machines that nothing starts: start the same command on "
                              "each with torchrun")  # fmt: skip
        if gpus and devices > gpus:
            raise ConfigError(f"{devices} processes for {gpus} GPUs: choose as many, or --accelerator cpu")
        strategy = "ddp" if devices * nodes > 1 else "auto"
        return {
            "accelerator": "gpu" if gpus else "cpu", "devices": devices, "num_nodes": nodes, "strategy": strategy,
        }  # fmt: skip

    def loader_options(self, devices: int, gpu: bool, seed: int) -> dict[str, Any]:
        """Return the arguments of a `DataLoader` on each of `devices`, without samples and sampler."""
        workers = self.workers
        if workers is None:
            workers = min(max(usable_cores() // devices - 1, 1), 16) if gpu else 0
        generator = torch.Generator()  # so that making a loader draws none of the network's random numbers
        generator.manual_seed(seed)
        more = {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": _start_worker} if workers else {}
        return {"num_workers": workers, "pin_memory": gpu, "generator": generator, **more}


def _start_worker(_: int) -> None:
    """Set up a data loader process: only the trainer handles signals, and one thread is enough."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively; a CPU that emulates it is several times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older PyTorch
    return any(value is True for name, value in capabilities.items() if "bf16" in name)
