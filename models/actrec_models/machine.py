"""What a training run uses of a machine: devices, processes, how often it is kept."""

import os
import signal
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from lightning.pytorch.plugins.environments import LSFEnvironment, MPIEnvironment, SLURMEnvironment

from actrec.config import setting
from actrec.errors import ConfigError

_CLUSTERS = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)
"""What starts a command on several machines besides torchrun."""


@dataclass(frozen=True)
class Machine:
    """What a run uses of a machine and leaves on it; none of it changes what is learnt, but for rounding."""

    accelerator: str = setting("auto", "gpu where there is one, else cpu", choices=("auto", "gpu", "cpu"))
    devices: int = setting(0, "GPUs, or processes on a CPU, of each node; 0: all GPUs, one process", range=(0, 1024))
    nodes: int = setting(1, "machines; start the command on each with torchrun", range=(1, 4096))
    workers: int | None = setting(
        None, "processes that read clips, for each device; by default none on a CPU, its cores shared out on GPUs",
        range=(0, 256),
    )  # fmt: skip
    checkpoint_minutes: float = setting(10.0, "between checkpoints within an epoch; 0: none", range=(0.0, 1e6))
    checkpoint_steps: int = setting(0, "likewise, in steps", range=(0, 10**9))

    def trainer_options(self) -> dict[str, Any]:
        """For `lightning.Trainer`. Under torchrun, processes and nodes are those that it made.

        Raises:
            ConfigError: A GPU is asked for where there is none, torchrun made other processes than are asked for, or
                nothing starts the other nodes.
        """
        gpus = torch.cuda.device_count() if self.accelerator != "cpu" else 0
        if self.accelerator == "gpu" and not gpus:
            raise ConfigError("--accelerator gpu, but PyTorch finds none: install its CUDA build, or leave the option")
        devices, nodes = self.devices or max(gpus, 1), self.nodes
        if "TORCHELASTIC_RUN_ID" in os.environ:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            if self.devices not in (0, local):
                raise ConfigError(f"torchrun made {local} processes, but --devices asks for {self.devices}")
            devices, nodes = local, int(os.environ["WORLD_SIZE"]) // local
        elif nodes > 1 and "MASTER_ADDR" not in os.environ and not any(kind.detect() for kind in _CLUSTERS):
            raise ConfigError(f"--nodes {nodes} would wait for machines that nothing starts: start the same command on "
                              "each with torchrun")  # fmt: skip
        if gpus and devices > gpus:
            raise ConfigError(f"{devices} processes for {gpus} GPUs: choose as many, or --accelerator cpu")
        strategy = "ddp" if devices * nodes > 1 else "auto"
        return {
            "accelerator": "gpu" if gpus else "cpu", "devices": devices, "num_nodes": nodes, "strategy": strategy,
        }  # fmt: skip

    def loader_workers(self, devices: int, gpu: bool) -> int:
        """Worker processes of one device."""
        if self.workers is not None:
            return self.workers
        return min(max((os.cpu_count() or 1) // devices - 1, 1), 16) if gpu else 0


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; a CPU that imitates it takes several times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch does not tell
    return any(value is True for name, value in capabilities.items() if "bf16" in name)


def loader_options(workers: int, gpu: bool, seed: int) -> dict[str, Any]:
    """What a `DataLoader` of samples is made with, beside samples and draws."""
    own = torch.Generator()
    own.manual_seed(seed)  # so that making a loader draws nothing of the network's random numbers
    more = {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": _begin_worker} if workers else {}
    return {"num_workers": workers, "pin_memory": gpu, "generator": own, **more}


def _begin_worker(_: int) -> None:
    """A loader's process: signals are the trainer's to answer, and its threads would only be in one another's way."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
