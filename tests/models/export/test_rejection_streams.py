"""The rejection of networks that look at more than bodies: on clips that training held out."""

import pytest

import actrec_models.networks
from actrec import datasets as core_datasets
from actrec.cli import main
from actrec.datasets.base import ClipDataset
from actrec.inference import package
from actrec.utils import config
from actrec_models.data import unknown_clips
from actrec_models.export import rejection
from actrec_models.training import checkpoints
from actrec_models.training.recipe import Recipe
from tests.models.made_up import skeletons
from tests.models.small import SMALL
from tests.models.training.test_training_streams import make_clips, write

NAME = "c3d_flow"
HELD = {"share": 0.25}


def _other(clips):
    """Return the clips with other class names."""
    return ClipDataset([clips[i] for i in range(len(clips))], [f"other {name}" for name in clips.classes])


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Fake the clips by dataset and part, and the recordings labeled unknown."""
    known, other = make_clips(NAME, 12), make_clips(NAME, 8)
    clips = {
        ("nucla", "train"): known,
        ("nucla", "test"): make_clips(NAME, 4),
        ("ntu60", "train"): _other(other.subset(range(4))),
        ("ntu60", "test"): _other(other.subset(range(4, 8))),
        "utd_mhad": _other(skeletons(4)),
    }
    own = {"train": ClipDataset([], known.classes), "test": ClipDataset([], known.classes)}
    monkeypatch.setattr(
        core_datasets, "create", lambda name, root, part="train", **_: clips.get((name, part), clips.get(name))
    )
    monkeypatch.setattr(core_datasets, "create_unknown", lambda name, root, part="train", **_: own[part])
    for name in ("ntu", "utd_mhad"):
        (tmp_path / name).mkdir()
    return own


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"unknown_dataset": "utd_mhad", "validation": HELD}, "also takes flow, which utd_mhad does not contain"),
        ({"unknown_dataset": "ntu60"}, "with held-out clips (validation: {share: 0.1})"),
        ({"unknown_dataset": "", "validation": HELD}, "the recipe has no unknown_dataset"),
        ({"unknown_dataset": "sysu", "validation": HELD}, "the unknown_dataset sysu is not in"),
    ],
)
def test_calibration_obstacle_contains_cause(datasets, tmp_path, fields, message):
    network = actrec_models.networks.create(NAME, num_classes=2, **SMALL[NAME])
    settings = config.build(Recipe, {"model": NAME, "dataset": "nucla", **fields})
    assert message in rejection.calibration_obstacle(settings, network.input_specs, str(tmp_path))


@pytest.mark.parametrize(("known", "other"), [(True, False), (True, True), (False, False)])
def test_calibration_obstacle_optional_stream_only_of_known_clips(monkeypatch, tmp_path, known, other):
    """Otherwise the threshold would separate clips with hands from clips without."""
    clips = {"nucla": make_clips("deepacts", 4) if known else skeletons(4)}
    clips["ntu60"] = _other(make_clips("deepacts", 4) if other else skeletons(4))
    monkeypatch.setattr(core_datasets, "create", lambda name, *_, **__: clips[name])
    monkeypatch.setattr(core_datasets, "create_unknown", lambda *_, **__: ClipDataset([], clips["nucla"].classes))
    (tmp_path / "ntu").mkdir()
    fields = {"model": "deepacts", "dataset": "nucla", "unknown_dataset": "ntu60", "validation": HELD}
    network = actrec_models.networks.create("deepacts", num_classes=2, **SMALL["deepacts"])
    obstacle = rejection.calibration_obstacle(config.build(Recipe, fields), network.input_specs, str(tmp_path))
    assert obstacle == ("the network also takes hands, which ntu60 does not contain" if known and not other else "")


def test_calibration_obstacle_unknown_recordings_without_stream(datasets, tmp_path):
    network = actrec_models.networks.create(NAME, num_classes=2, **SMALL[NAME])
    settings = config.build(Recipe, {"model": NAME, "dataset": "nucla", "unknown_dataset": "", "validation": HELD})
    datasets["train"] = skeletons(4)
    obstacle = rejection.calibration_obstacle(settings, network.input_specs, str(tmp_path))
    assert obstacle.endswith("which its recordings labeled unknown do not contain")
    datasets["train"] = make_clips(NAME, 4)
    assert rejection.calibration_obstacle(settings, network.input_specs, str(tmp_path)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_export_chooses_rejection_on_held_out_clips(datasets, tmp_path, capsys, monkeypatch, own):
    monkeypatch.setattr(unknown_clips, "_MOST", 3)
    if own:
        datasets.update(train=make_clips(NAME, 3), test=make_clips(NAME, 5).subset([3, 4]))
    others = "" if own else "ntu60"
    path = write(tmp_path / "recipe.yaml", NAME, validation=HELD, unknown_dataset=others)
    out, folder = tmp_path / "run", tmp_path / "package"
    assert main(["train", str(path), "--data", str(tmp_path), "--out", str(out), "--quiet", "--threads", "1"]) == 0
    assert main(["export", str(out / checkpoints.BEST), "--out", str(folder), "--data", str(tmp_path)]) == 0
    made = package.load(folder)
    assert "train part, 3 clips held out" in made.rejection.calibrated_on
    assert ("3 of its recordings labeled unknown" if own else "ntu60 train part") in made.rejection.calibrated_on
    assert made.provenance.figures["unknown_clips"] == (2 if own else 3)
    command = ["export", str(folder), "--calibrate", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "new")]
    assert main(command) == 0
    assert package.load(tmp_path / "new").rejection == made.rejection
    if not own:
        again = ["train", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "other"), "--set", "seed=2"]
        assert main([*again, "--quiet", "--threads", "1"]) == 0
        both = [str(folder / checkpoints.BEST) for folder in (out, tmp_path / "other")]
        fuse = ["export", *both, "--fuse", "softmax", "--out", str(tmp_path / "both"), "--data", str(tmp_path)]
        assert main(fuse) == 2
        assert "other/best.ckpt was trained on clips that others of these networks held out" in capsys.readouterr().err
    path.write_text(path.read_text().replace("share: 0.25", "share: 0.5"))
    assert main([*command, "--overwrite"]) == 2
    assert "holds out other clips than the training" in capsys.readouterr().err
