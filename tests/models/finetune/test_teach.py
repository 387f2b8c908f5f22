"""`actrec teach`: fine-tuning of a zoo package on a few recordings of other actions."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from actrec import datasets, inference
from actrec.cli import main
from actrec.cli import teach as command_line
from actrec.datasets.user_folder import Folder
from actrec.features.clips import window_inputs
from actrec.features.specs import InputSpec
from actrec.inference import package
from actrec.utils import config
from actrec.utils.errors import ConfigError, InputError, PackageError
from actrec_models.evaluation import elsewhere
from actrec_models.export import onnx_graph
from actrec_models.finetune import fine_tuning, transfer
from actrec_models.finetune.cross_validation import CrossValidation
from actrec_models.finetune.recordings import Recordings, make_folds, read_recordings
from actrec_models.finetune.transfer import TeachConfig
from actrec_models.networks import create
from actrec_models.networks.base import OUTLIER
from actrec_models.training import initial_weights, provenance
from benchmarks import short_trainings as benchmark

pytestmark = pytest.mark.timeout(300)  # for a busy machine
ACTIONS = ("clap", "sit to stand", "squat")
QUICK = {"steps": 1, "batch": 4, "draws": 2, "rehearsals": 1, "least": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def utd(data_root):
    return datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")


@pytest.fixture(scope="module")
def base():
    return transfer.open_pretrained("deepacts_graph_nucla")


@pytest.fixture(scope="module")
def mine(tmp_path_factory, utd):
    """Write four clips each of three actions by four people, two unknown ones, and a damaged recording."""
    folder = tmp_path_factory.mktemp("teach") / "mine"
    benchmark.write_folder(folder, utd, dict.fromkeys(ACTIONS, 4))
    others = [i for i in range(len(utd)) if utd.classes[utd.labels[i]] == "bowling"][:2]
    with (folder / "labels.csv").open("a") as file:
        for i in others:
            benchmark.write_bag(folder / utd.names[i], utd[i])
            file.write(f"{utd.names[i]},unknown,,,subject 9,,\n")
        cut = folder / "cut.mcap"
        cut.write_bytes((folder / utd.names[others[0]] / f"{utd.names[others[0]]}.mcap").read_bytes()[:2000])
        file.write("cut.mcap,squat,,,subject 1,,\n")
    return folder


@pytest.fixture(scope="module")
def tuned(mine):
    return fine_tuning.teach(mine, config.build(TeachConfig, QUICK), progress=False)


def test_report_is_cross_validated_by_person(tuned):
    figures = fine_tuning.report(tuned)
    assert figures["classes"] == list(ACTIONS) and figures["clips"] == 12 and figures["unknown_clips"] == 2
    assert figures["evaluated_by"] == "leave one person out"
    assert figures["left_out"] == ["subject 1", "subject 3", "subject 5", "subject 7"]
    assert figures["accuracy"] >= 0.75  # chance is a third
    assert figures["accuracy"] == max(figures["head_accuracy"], figures["fine_tuned_accuracy"] or 0.0)
    assert figures["accuracy_interval"][0] < figures["accuracy"] <= figures["accuracy_interval"][1]
    assert len(figures["skipped"]) == 1 and "cut.mcap' cannot be used" in figures["skipped"][0]
    assert np.sum(figures["confusion"]) == 12
    assert tuned.rejection.background is not None and "a held-out class" in tuned.rejection.calibrated_on
    assert tuned.mirror and tuned.steps == ((tuned.tuned_accuracy or 0.0) > tuned.head_accuracy)
    assert figures["known_kept"] >= 0.9 and 0 <= figures["unknown_rejected"] <= 1


def test_teach_same_seed_gives_same_network(mine, tuned):
    again = fine_tuning.teach(mine, config.build(TeachConfig, QUICK), progress=False)
    np.testing.assert_array_equal(again.validation.logits, tuned.validation.logits)
    assert again.rejection == tuned.rejection
    for name, value in tuned.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_open_pretrained_keeps_order_of_tensors(base):
    """safetensors lists names in random order."""
    read = [transfer.open_pretrained("deepacts_graph_nucla") for _ in range(5)]
    assert [list(b.tensors) for b in read] == [list(base.tensors)] * 5 and [b.head for b in read] == [base.head] * 5
    order = list(base.network(3).state_dict())
    assert sorted(base.head, key=order.index) == list(base.head)


@pytest.mark.slow
def test_teach_command_writes_working_package(mine, tmp_path, capsys, utd):
    out = tmp_path / "taught"
    command = ["teach", str(mine), "--out", str(out), "--steps", "0", "--rehearsals", "1", "--threads", "1", "--quiet"]
    assert main([*command, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    session = inference.load(out)
    assert session.package.labels == ACTIONS and output["package"] == str(out)
    assert session.package.provenance.accuracy == output["accuracy"] >= 0.75
    assert session.package.provenance.figures["taught_from"] == "joint_tcn_everyday"
    assert session.package.provenance.frame_rates == (12.0, 20.0, 30.0), "of the package and of the recordings"
    assert session.package.events == package.EventThresholds(), "the base's belong to its labels"
    assert session.package.provenance.recipe == ("actrec teach mine --steps 0 --rehearsals 1 --out taught",)
    assert session.package.rejection.threshold == output["threshold"]
    window = session.package.window
    clip = next(utd[i] for i in range(len(utd)) if utd.classes[utd.labels[i]] == "squat")
    assert session.predict(clip.sample(window.seconds, window.frames)).top(1)[0][0] == "squat"
    card = (out / "README.md").read_text()
    assert "In float16" not in card and session.package.float16 is None, "float16 network of the base"
    assert "How it was taught" in card and "fewer than 10 clips of 'clap' (4)" in card
    assert "by leave one person out, of the head on the frozen network" in card
    assert main(command) == 1
    assert "exists: choose another name, or overwrite it (--overwrite)" in capsys.readouterr().err
    _check_eval_of_other_recordings(out, mine, tmp_path, utd, capsys)
    # A fine-tuned package can be fine-tuned again.
    assert transfer.open_pretrained(out).package.labels == ACTIONS


def _check_eval_of_other_recordings(package, mine, tmp_path, utd, capsys):
    """Score a fine-tuned package on other recordings, also of some of its labels, and never on its own."""
    held = datasets.create("utd_mhad", utd.source.root, part="test")
    fresh = tmp_path / "fresh"
    for i in [k for k in range(len(held)) if held.classes[held.labels[k]] == "squat"][:3]:
        benchmark.write_bag(fresh / "squat" / held.names[i], held[i])
    command = ["eval", str(package), "--quiet", "--json", "--threads", "1", "--root"]
    assert main([*command, str(fresh)]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (
        output["clips"] == 3
        and output["accuracy"] > 0.5
        and "no model was trained on any of them" in output["notes"][0]
    )
    shutil.copytree(next(mine.glob("a*_s*_t*")), fresh / "squat/again")
    assert main([*command, str(fresh)]) == 1
    assert "was trained on 1 of the 4 clips" in capsys.readouterr().err
    assert main(["prepare", "folder", "--root", str(mine), "--out", str(tmp_path / "store"), "--quiet"]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "store")]) == 1
    assert "taught was trained on" in capsys.readouterr().err
    (fresh / "squat").rename(fresh / "dance")
    assert main([*command, str(fresh)]) == 1
    assert "has recordings labeled dance; known: " in capsys.readouterr().err


def test_command_contains_all_options():
    videos, options = Path("videos/mine"), ["hfov_deg=69", "rotate=90"]
    command = command_line._command(videos, options, TeachConfig(steps=5), {"steps": 5}, Path("made/taught"))
    assert command == "actrec teach mine --steps 5 --recording hfov_deg=69 --recording rotate=90 --out taught"
    command = command_line._command(Path("."), [], TeachConfig(), {}, Path("made/taught"))
    assert command == f"actrec teach {Path.cwd().name} --out taught"


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_teach_out_in_recordings_folder_refused(place, mine, capsys):
    before = sorted(path.name for path in mine.iterdir())
    assert main(["teach", str(mine), "--out", str(mine / place), "--overwrite", "--quiet"]) == 2
    assert "overlaps the recordings" in capsys.readouterr().err
    assert sorted(path.name for path in mine.iterdir()) == before


def test_summary_lists_confusions(tuned):
    stand, squat = 1, 2
    truth = tuned.recordings.labels[tuned.recordings.labels >= 0]
    logits = np.eye(3, dtype=np.float32)[np.where(truth == squat, stand, truth)]
    confused = dataclasses.replace(tuned.validation, logits=logits)
    advice = fine_tuning.summary(dataclasses.replace(tuned, validation=confused))
    assert "'squat' is recognized as 'sit to stand' in 4 of 4 clips" in advice
    assert "record more of 'squat': other people, places and speeds" in advice
    assert any(line.startswith("1 recording could not be used: ") for line in advice)
    sure = dataclasses.replace(tuned, rejection=package.Rejection())
    assert (
        "no threshold separates these actions from others: never says `unknown`, whatever it sees"
        in fine_tuning.summary(sure)
    )
    alone = dataclasses.replace(tuned, folds=make_folds(tuned.recordings.labels, [""] * 14, 5, 1))
    assert alone.folds.description == "4-fold cross-validation"
    assert any("record two or more with --person" in line for line in fine_tuning.summary(alone))


def test_summary_lists_at_most_ten_skipped_recordings(tuned):
    reasons = tuple(f"r{number}.mcap is empty" for number in range(12))
    recordings = dataclasses.replace(tuned.recordings, skipped=reasons)
    last = fine_tuning.summary(dataclasses.replace(tuned, recordings=recordings))[-1]
    assert last == f"12 recordings could not be used: {'; '.join(reasons[:10])}; and 2 more"


@pytest.fixture
def unchecked(monkeypatch):
    """Save the time of scoring again."""
    monkeypatch.setattr(fine_tuning, "check_report", lambda result, written: None)


@pytest.mark.usefixtures("unchecked")
def test_card_escapes_labels(tuned, tmp_path):
    labels = ("push|pull", "<b>wave</b>", "a `tick`")
    recordings = dataclasses.replace(tuned.recordings, classes=labels)
    fine_tuning.write(dataclasses.replace(tuned, recordings=recordings), tmp_path / "taught", "actrec teach 'a|b'", 1)
    card = (tmp_path / "taught/README.md").read_text()
    assert "| Labels | push\\|pull, &lt;b&gt;wave&lt;/b&gt;, a \\`tick\\` |" in card
    assert "| Trained again by | `actrec teach 'a\\|b'` |" in card and "<b>" not in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)


@pytest.mark.usefixtures("unchecked")
def test_write_keeps_trainings_of_base(tuned, tmp_path, data_root):
    """On a split of the same dataset they are refused, as initial weights and in an evaluation."""
    fine_tuning.write(tuned, tmp_path / "taught", "actrec teach", 1)
    weights = initial_weights.read(tmp_path / "taught")
    base = tuned.base.provenance
    assert [(each["dataset"], each["split"]) for each in weights.trainings] == [
        (base.dataset, base.split),
        ("folder", "all"),
    ]
    with pytest.raises(ConfigError, match="was trained on split 'own' of everyday, not 'person'"):
        provenance.check("taught", weights.trainings, "everyday", "person", {})
    taught = package.load(tmp_path / "taught")
    assert elsewhere.shares(taught, str(data_root), ["kard"]) == [elsewhere.Share("kard", "own", is_trained=True)]


@pytest.mark.usefixtures("unchecked")
def test_recordings_of_base_are_included(tuned, tmp_path):
    known = [tuned.recordings.identities[0], "of another training"]
    of = dataclasses.replace(
        tuned.base.provenance, dataset="folder", figures={"recordings": known}, license=f"{fine_tuning._LICENSE}none"
    )
    again = dataclasses.replace(tuned, base=dataclasses.replace(tuned.base, provenance=of))
    assert any("was trained on 1 of these clips before" in line for line in fine_tuning.summary(again))
    assert not any("before, which" in line for line in fine_tuning.summary(tuned))
    made = fine_tuning.write(again, tmp_path / "again", "actrec teach", 1).provenance
    assert set(made.figures["recordings"]) == {*known, *tuned.recordings.identities}
    assert made.license == f"{fine_tuning._LICENSE}none"
    silent = dataclasses.replace(again.base, provenance=dataclasses.replace(of, figures={}))
    assert fine_tuning._training_recordings(dataclasses.replace(again, base=silent)) == {}, (
        "recordings of the base are unknown"
    )


def test_make_folds_recordings_of_several_classes_are_split():
    """Each recording contains unknown clips; two or three of them contain an action."""
    sources = [*"abcdef", *"aabb", *"ccddee"]
    labels = np.repeat([-1, 0, 1], [6, 4, 6])
    for seed in range(20):
        folds = make_folds(labels, [""] * 16, 5, seed, sources)
        assert (folds.by, folds.count) == ("recording", 2)
        assert all(set(folds.fold_of_clip[labels == label]) == {0, 1} for label in (-1, 0, 1)), seed
        assert len({(source, fold) for source, fold in zip(sources, folds.fold_of_clip, strict=True)}) == 6


def test_read_recordings_similar_labels_warned(tmp_path, utd, caplog):
    for number in range(6):
        benchmark.write_bag(tmp_path / ("Wave", "wave")[number // 3] / f"r{number}", utd[number])
    assert read_recordings(Folder(tmp_path), progress=False).classes == ("Wave", "wave")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "'Wave' and 'wave' count as two actions: spell them alike if they are one"
    ]


def test_read_recordings_similar_people_warned(tmp_path, utd, caplog):
    lines = ["recording,label,person"]
    for number in range(6):
        benchmark.write_bag(tmp_path / f"r{number}", utd[number])
        lines.append(f"r{number},{'ab'[number // 3]},{('Ben', 'ben', 'anna')[number % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert len(read_recordings(Folder(tmp_path), progress=False).clips) == 6
    assert [record.getMessage() for record in caplog.records] == [
        "'Ben' and 'ben' count as two people: spell them alike if they are one"
    ]


def test_read_recordings_duplicate_skipped(tmp_path, utd, caplog):
    for number in range(6):
        benchmark.write_bag(tmp_path / "ab"[number // 3] / f"r{number}", utd[number])
    shutil.copytree(tmp_path / "a/r0", tmp_path / "a/again")
    recordings = read_recordings(Folder(tmp_path), progress=False)
    assert recordings.counts == {"a": 3, "b": 3} and len(set(recordings.identities)) == 6
    assert recordings.skipped == ("recording 'a/r0' is the same as 'a/again'",) and "skipped" in caplog.text
    shutil.copytree(tmp_path / "a/r0", tmp_path / "b/again")
    with pytest.raises(InputError, match=r"'a/again' \(a\) and 'b/again' \(b\) are the same clip: remove one"):
        read_recordings(Folder(tmp_path), progress=False)


def test_prototype_head_is_nearest_mean_in_whitened_features():
    """Classes have the same weight, a feature that varies within classes has less, and other clips have low logits."""
    generator = torch.Generator().manual_seed(1)
    centers, spread = torch.tensor([[4.0, 0, 100], [-4, 0, 100], [0, 0, 110]]), torch.tensor([1.0, 20, 1])
    counts = torch.tensor([50, 5, 20])  # the third has no class
    features = torch.repeat_interleave(centers, counts, dim=0) + spread * torch.randn(75, 3, generator=generator)
    labels = torch.repeat_interleave(torch.tensor([0, 1, OUTLIER]), counts)
    known = labels != OUTLIER
    weight, bias = transfer.prototype_head(features, labels, 2, 75, smoothing=0.1)
    logits = features @ weight.T + bias
    assert (logits.argmax(1)[known] == labels[known]).all()
    assert logits[~known].max() < 0 < logits[known].max(1).values.min()
    weight, bias = transfer.prototype_head(features[known], labels[known], 2, 55, smoothing=0.1)
    logits = features[known] @ weight.T + bias
    own = logits.gather(1, labels[known][:, None])[:, 0]
    assert (2 * own - logits.sum(1)).mean() == pytest.approx(np.log(0.95 / 0.05), rel=1e-3)


def test_network_has_pretrained_backbone_and_new_head(base):
    network = base.network(4)
    assert base.head == tuple(name for name in network.state_dict() if ".fc." in name)
    for name, value in network.state_dict().items():
        if name in base.head:
            assert value.shape[0] == 4 and not value.any()
        else:
            assert torch.equal(value, base.tensors[name])
    weight, bias = torch.randn(4, 192), torch.randn(4)
    transfer.set_head(base.head_layers(network), weight, bias)
    inputs = onnx_graph.example_inputs(network, 2)
    features = torch.cat(base.features(network, inputs, "32-true"), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(network(**inputs), features @ weight.T + bias, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("as published", {}),
        ("dropout 0.1, width 24", {"dropout": 0.1, "width": 24}),
        ("kernel 3, modalities ['body', 'bones']", {"kernel": 3}),
    ],
)
def test_network_options_are_parsed_from_package(base, variant, expected):
    found = transfer.network_options(dataclasses.replace(base.package, variant=variant))
    implied = {"frames": 60, "bodies": 1, "modalities": ["body", "bones"]}
    assert found == {**implied, **expected}
    create("deepacts_graph", num_classes=3, **found)


def test_teach_unsuited_base_refused(base, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(base.package.path, copy)
    described = (copy / "model.yaml").read_text()
    (copy / "model.yaml").write_text(described.replace("width 24", "width 16"))
    with pytest.raises(PackageError, match="its weights do not fit deepacts_graph with .*'width': 16"):
        transfer.open_pretrained(copy)
    (copy / "model.yaml").write_text(described)
    (copy / "model.safetensors").unlink()
    with pytest.raises(PackageError, match=r"came without model\.safetensors: export it again"):
        transfer.open_pretrained(copy)
    with pytest.raises(PackageError, match="no model package 'nothing'; known: .*deepacts_graph_nucla"):
        transfer.open_pretrained("nothing")
    hands = InputSpec("hands", "hands", "hand_21", (1, 3, 60, 42), "px", {})
    foreign = dataclasses.replace(base, package=dataclasses.replace(base.package, inputs=(*base.package.inputs, hands)))
    with pytest.raises(ConfigError, match="takes hands: choose a --from of bodies alone"):
        fine_tuning._check_base(foreign)
    crowd = dataclasses.replace(base, package=dataclasses.replace(base.package, bodies=2))
    with pytest.raises(ConfigError, match="takes 2 people together: choose a --from of one"):
        fine_tuning._check_base(crowd)


def _pair(utd):
    clips = [dataclasses.replace(utd[k], label=k % 2) for k in range(8)]
    return Recordings(clips, ("a", "b"), ("",) * 8, (), "none")


@pytest.mark.slow
@pytest.mark.parametrize("cut_at", [1, 4])
def test_fine_tune_package_cut_short_uses_head(base, utd, monkeypatch, caplog, cut_at):
    """The time ends in the first fold, or in the last training although the fine-tuned network is better."""
    settings = config.build(TeachConfig, {**QUICK, "steps": 2, "folds": 2, "draws": 1})
    count, accuracies = iter(range(6)), iter([0.5, 0.75])
    monkeypatch.setattr(transfer.Steps, "step", lambda steps: next(count) < cut_at)
    monkeypatch.setattr(CrossValidation, "accuracy", property(lambda validation: next(accuracies)))
    done = fine_tuning.fine_tune_package(base, _pair(utd), settings, False)
    assert done.steps == 0 and done.procedure == "head on the frozen network"
    assert "over the limit of 10" in done.not_tuned and "the head on the frozen network is used; allow" in caplog.text
    for name, value in done.network.state_dict().items():
        assert name in base.head or torch.equal(value, base.tensors[name]), name


def test_fine_tune_package_perfect_head_is_not_fine_tuned(utd, monkeypatch):
    base, settings = transfer.open_pretrained(TeachConfig().base), config.build(TeachConfig, {**QUICK, "folds": 2})
    monkeypatch.setattr(CrossValidation, "accuracy", 1.0)
    done = fine_tuning.fine_tune_package(base, _pair(utd), settings, False)
    assert (done.head_accuracy, done.tuned_accuracy, done.steps) == (1.0, None, 0)
    assert done.not_tuned == "fine-tuning can be no better: the head recognizes all held-out clips"


@pytest.mark.slow
@pytest.mark.parametrize("accuracies", [(0.5, 0.75), (0.75, 0.75)])
def test_fine_tune_package_better_procedure_is_used(base, utd, monkeypatch, accuracies):
    settings = config.build(TeachConfig, {**QUICK, "folds": 2, "draws": 1})
    given = iter(accuracies)
    monkeypatch.setattr(CrossValidation, "accuracy", property(lambda validation: next(given)))
    done = fine_tuning.fine_tune_package(base, _pair(utd), settings, False)
    assert (done.head_accuracy, done.tuned_accuracy, done.not_tuned) == (*accuracies, "")
    tuned = accuracies[1] > accuracies[0]
    assert (done.steps, done.procedure) == ((1, "fine-tuned network") if tuned else (0, "head on the frozen network"))
    frozen = all(torch.equal(v, base.tensors[k]) for k, v in done.network.state_dict().items() if k not in base.head)
    assert frozen != tuned
    monkeypatch.undo()
    labels, logits = done.validation.labels, np.zeros((8, 2), np.float32)
    for fold, network in enumerate(done.validation.networks):
        known = np.flatnonzero(done.folds.fold_of_clip == fold)
        inputs = [done.recordings.clips[k].sample(base.package.window.seconds, 60) for k in known]
        with torch.no_grad():
            logits[known] = network(**_inputs(base, inputs)).numpy()
    np.testing.assert_allclose(logits, done.validation.logits, atol=1e-3)
    assert done.validation.accuracy == (logits.argmax(1) == labels).mean()


def _inputs(base, samples):
    windows = [window_inputs(sample, list(base.package.inputs), base.package.window)[0] for sample in samples]
    return {name: torch.from_numpy(np.stack([window[name] for window in windows])) for name in windows[0]}


@pytest.mark.slow
def test_write_network_unlike_report_refused(tuned, tmp_path, monkeypatch):
    """Nothing is replaced if the exported network, or the ones of the folds, are worse than the report."""
    out = tmp_path / "taught"
    with monkeypatch.context() as unchecked:
        unchecked.setattr(fine_tuning, "check_report", lambda result, written: None)
        kept = fine_tuning.write(tuned, out, "actrec teach", 1).provenance.onnx_sha256
    worse = copy.deepcopy(tuned.network)
    for name, value in worse.state_dict().items():
        value.copy_(value.roll(1, dims=0) if "fc." in name else value)  # recognizes other classes
    other = [dataclasses.replace(tuned, network=worse)]
    folds = dataclasses.replace(tuned.validation, networks=(worse,) * tuned.folds.count)
    other.append(dataclasses.replace(tuned, validation=folds))
    for result, message in zip(other, ("clips that it was trained on, but .* --seed", "of the folds"), strict=True):
        with pytest.raises(PackageError, match=message):
            fine_tuning.write(result, out, "actrec teach", 1, overwrite=True)
        assert package.load(out).provenance.onnx_sha256 == kept
        assert [path.name for path in tmp_path.iterdir()] == ["taught"]


def test_wilson_interval():
    assert fine_tuning.wilson_interval(12, 15) == pytest.approx([0.548, 0.9295], abs=1e-3)
    assert fine_tuning.wilson_interval(10, 10) == pytest.approx([0.722, 1.0], abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["clap"] * 4, "at least two actions are needed; record more"),
        (["clap"] * 4 + ["squat"] * 2, "at least three clips, but 'squat' has 2"),
    ],
)
def test_teach_too_few_recordings_refused(tmp_path, utd, labels, message):
    rows = []
    for number, label in enumerate(labels):
        benchmark.write_bag(tmp_path / f"r{number}", utd[number])
        rows.append(f"r{number},{label}\n")
    (tmp_path / "labels.csv").write_text("recording,label\n" + "".join(rows))
    with pytest.raises(InputError, match=message):
        fine_tuning.teach(tmp_path, config.build(TeachConfig, QUICK), progress=False)


def test_read_recordings_class_folders_remedy_names_other_folder(tmp_path, utd):
    benchmark.write_bag(tmp_path / "clap/first", utd[0])
    with pytest.raises(InputError, match="'clap' has 1; record more into another folder .* their label's folder$"):
        read_recordings(Folder(tmp_path), progress=False)


def test_augmentation_for_sided_labels_not_mirrored():
    settings = config.build(TeachConfig, {})
    assert settings.augmentation_for(["wave", "leftover"]).mirror
    for label in ("swipe-left", "swipe_left", "Swipe (left)", "turn_clockwise", "left1"):
        assert not settings.augmentation_for(["wave", label]).mirror, label
    assert config.build(TeachConfig, {"mirror": "yes"}).augmentation_for(["turn left"]).mirror
    assert not config.build(TeachConfig, {"mirror": "no"}).augmentation_for(["wave"]).mirror


@pytest.mark.slow
def test_fine_tune_package_keeps_time_limit(base, utd, caplog):
    long = {**QUICK, "steps": 100_000, "draws": 1000, "folds": 2, "minutes": 0.1}
    done = fine_tuning.fine_tune_package(base, _pair(utd), config.build(TeachConfig, long), False)
    assert "of 1000 passes within the time limit" in caplog.text
    assert ("minutes, over the limit of 0.1" in caplog.text) == (done.seconds > 6)
    assert done.steps == done.epochs == 0 and done.tuned_accuracy is None and done.rejection.threshold <= 1
    assert "fine-tuning takes about" in done.not_tuned
    assert transfer.one_cycle(0.15) == pytest.approx(1.0) and transfer.one_cycle(1.0) == pytest.approx(0.0)
