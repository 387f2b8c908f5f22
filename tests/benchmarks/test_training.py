import json

import pytest

from actrec.cli import main
from actrec.utils.errors import ConfigError
from actrec_models import registry
from benchmarks import training, training_steps
from benchmarks.pages import marks

SMALL_ATTENTION = "c3d_flow_at1:width=4;size=32;fc=32"


def test_a_small_network_is_measured_and_written(tmp_path, capsys):
    page = tmp_path / "page.md"
    begin, end = marks("training")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    command = ["bench", "training", "--networks", SMALL_ATTENTION, "--device", "cpu", "--seconds", "0.2"]
    assert main([*command, "--threads", "1", "--batch", "2", "--write", str(page), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["networks"]
    assert (row["network"], row["batch"], row["recipe_batch"], row["workers"]) == (SMALL_ATTENTION, 2, 60, 0)
    assert row["clips_per_s"] > 0 < row["clips_per_s_with_reading"] < row["read_by_a_core"] * 10
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert f"| `{SMALL_ATTENTION}` | bf16-mixed | 2 (60) |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "sem_nett"], "unknown network 'sem_nett'"),
        (["--networks", "sem_net", "--write", "nowhere.md"], r"cannot read nowhere.md"),
        (["--networks", "sem_net:frames"], "expected KEY=VALUE"),
    ],
)
def test_training_wrong_use_is_refused_at_once(arguments, message, monkeypatch):
    monkeypatch.setattr(training, "_child", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=message):
        training.measure(arguments)


def test_every_network_has_a_recipe_and_a_gpus_figures_are_shown():
    for name in registry.list_models():
        chosen = training_steps.recipe_of(name)
        assert chosen.model == name
        assert not chosen.stages
        assert chosen.options.get("bodies") == (2 if name.startswith("deepacts") else None)  # NTU's mutual actions
    row = {"network": "p_i3d", "precision": "bf16-mixed", "batch": 16, "recipe_batch": 16, "clips_per_s": 12.34,
           "clips_per_s_with_reading": 11.1, "workers": 8, "read_by_a_core": 20.0, "gpu_memory_gb": 40.0,
           "gpu_used_percent": 97.0, "gpu_used_percent_with_reading": None}  # fmt: skip
    text = training.table({"device": "NVIDIA H200", "torch": "2.13", "networks": [row]})
    assert "| 12.3 | 11.1 | 8 | 20 | 40.0 GB | 97 % |  |" in text
