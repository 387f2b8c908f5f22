"""Two processes under torchrun give the weights of one process, except for rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import actrec_models.networks
from actrec import datasets
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data.samplers import PAD, EpochBatchSampler, Sampling, rank_batches
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.training import checkpoints, trainer
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.small import SMALL
from tests.models.training import ddp_run

SCRIPT = Path(ddp_run.__file__)


def torchrun(folder, out, *options):
    """Run `torchrun --nproc_per_node 2 … train` on the script's synthetic clips."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(ddp_run.RECIPE))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    command += ["train", str(recipe), "--out", str(out), "--data", str(folder), "--quiet", "--accelerator", "cpu"]
    environment = {**os.environ, "ACTREC_TEST_NOTES": str(folder), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_ddp_two_processes_give_weights_of_one(tmp_path, monkeypatch):
    out = tmp_path / "two"
    process = torchrun(tmp_path, out, "--threads", "1")
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split() == [str(out / "best.ckpt")], "only the first process prints"
    monkeypatch.setattr(datasets, "create", ddp_run.clips)
    torch.set_num_threads(1)
    trainer.train(config.build(Recipe, ddp_run.RECIPE), "", tmp_path / "one", progress=False, threads=1)
    two, one = (checkpoints.read(folder / "last.ckpt") for folder in (out, tmp_path / "one"))
    assert two["global_step"] == one["global_step"] == 4
    for part in ("state_dict", "current_model_state"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-4, atol=1e-6)
    difference = one["current_model_state"]["network.c3d.conv1.weight"] - one["state_dict"]["network.c3d.conv1.weight"]
    assert difference.abs().max() > 1e-5, "the average differs from the last weights"
    assert "2 × cpu" in two["actrec"]["provenance"]["device"]
    best = [content["callbacks"]["Checkpoints"]["best"] for content in (two, one)]
    assert best[0] == pytest.approx(best[1], abs=1e-5)
    batches = [(tmp_path / f"draws_{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    sampler = EpochBatchSampler(ddp_run.clips().labels[:8], Sampling(), 1, 4)
    expected = [[f"{epoch}:{index}" for epoch, index, _ in batch] for _ in range(2) for batch in sampler]
    assert [f"{a} {b}".split() for a, b in zip(*batches, strict=True)] == expected
    assert sorted(path.name for path in (out / "log").iterdir()) == ["tensorboard", "version_0"]
    assert not list(out.rglob("*.part"))


def test_ddp_processes_split_batches_and_validation_clips():
    labels = torch.arange(23).numpy() % 3
    options = {"sampling": Sampling(repeats=2), "seed": 3, "batch": 8}
    single = EpochBatchSampler(labels, **options)
    expected = [batch for _ in range(2) for batch in single]
    assert {epoch for batch in expected for epoch, _, _ in batch} == {0, 1}
    for world, accumulate in ((2, 1), (2, 2), (4, 2)):
        ranks = [EpochBatchSampler(labels, **options, accumulate=accumulate, rank=r, world=world) for r in range(world)]
        parts = [[batch for _ in range(2) for batch in rank] for rank in ranks]
        merged = [draw for step in zip(*parts, strict=True) for part in step for draw in part]
        assert merged == [draw for batch in expected for draw in batch]
    with pytest.raises(ConfigError, match="a batch of 8 clips does not divide among 3 processes × 1 parts"):
        EpochBatchSampler(labels, **options, world=3)
    with pytest.raises(ConfigError, match="a batch of 64 clips is more than the training part's 46"):
        EpochBatchSampler(labels, Sampling(repeats=2), 1, 64)
    parts = [list(rank_batches(11, 2, rank, 3)) for rank in range(3)]
    assert len({len(batches) for batches in parts}) == 1
    indices = [index for batches in parts for batch in batches for index in batch]
    assert sorted(index for index in indices if index != PAD) == list(range(11))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[("vpn_i3d", {"embedding": kind}) for kind in ("kl_visual_pose", "kl_pose_visual")],
        *[("c3d_flow_at2", {"skeleton": "joint", "layer": layer}) for layer in ("1", "3", "4", "sum")],
    ],
)
def test_ddp_loss_reaches_all_trained_parameters(name, options):
    """All trained parameters get gradients, which DDP requires."""
    network = actrec_models.networks.create(name, num_classes=2, **{**SMALL[name], **options}).train()
    network.losses({**example_inputs(network, 2), "label": torch.arange(2)})["loss"].backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_machine_impossible_settings_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="PyTorch finds none"):
        Machine(accelerator="gpu").trainer_options()
    with pytest.raises(ConfigError, match="--nodes 2 would wait for machines that nothing starts.*torchrun"):
        Machine(nodes=2).trainer_options()
    with monkeypatch.context() as patch:
        patch.setenv("MASTER_ADDR", "10.0.0.1")  # Lightning's own variables, with NODE_RANK
        assert Machine(nodes=2).trainer_options()["num_nodes"] == 2
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    options = Machine().trainer_options()
    assert (options["devices"], options["num_nodes"], options["strategy"]) == (2, 2, "ddp")
    with pytest.raises(ConfigError, match="torchrun made 2 processes, but --devices asks for 3"):
        Machine(devices=3).trainer_options()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes for 1 GPUs"):
        Machine().trainer_options()
