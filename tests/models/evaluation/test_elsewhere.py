"""Figures of a model on sets of `everyday` that it was not trained on, and their place in the card."""

import dataclasses
import json
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actrec import cli
from actrec.datasets.everyday import Everyday, class_of
from actrec.features.specs import InputSpec
from actrec.inference import package, zoo
from actrec.types import UNKNOWN
from actrec.utils.errors import ConfigError
from actrec_models.evaluation import elsewhere
from actrec_models.evaluation.elsewhere import Share
from actrec_models.evaluation.protocol import open_model
from actrec_models.export import repackage
from actrec_models.training import provenance
from tests.tiny_model import write_tiny


def trained_on(dataset: str, split: str, **options: object) -> package.ModelPackage:
    base = zoo.find("deepacts_graph_nucla")
    known = dataclasses.replace(
        base.provenance, dataset=dataset, split=split, settings={"dataset_options": options}, figures={}
    )
    return dataclasses.replace(base, provenance=known)


def test_class_of_maps_a_set_s_own_label():
    assert class_of("nucla", "pick up with two hands") == "pick up"
    assert class_of("everyday", "wave") == class_of("utd_mhad", "wave") == "wave"


def test_shares_are_sets_that_did_not_train_and_test_parts_of_others(data_root):
    asked = ["nucla", "utd_mhad", "kard"]
    found = elsewhere.shares(zoo.find("deepacts_graph_nucla"), str(data_root), asked)
    assert found == [Share("utd_mhad", "own"), Share("kard")], "its threshold was chosen on people of utd_mhad"
    found = elsewhere.shares(trained_on("everyday", "own", sets=["kard"]), str(data_root), asked)
    assert found == [Share("nucla"), Share("utd_mhad", "own"), Share("kard", "own", is_trained=True)]
    found = elsewhere.shares(trained_on("everyday", "leave_one_set_out", fold=3), str(data_root), asked)
    assert found == [Share("kard")]


def test_shares_of_a_taught_package_are_as_of_its_base(data_root):
    base = trained_on("everyday", "own")
    figures = {"initial_trainings": provenance.trainings(base.provenance)}
    taught = dataclasses.replace(
        base,
        provenance=dataclasses.replace(base.provenance, dataset="folder", split="all", settings={}, figures=figures),
    )
    asked = ["nucla", "kard"]
    assert elsewhere.shares(taught, str(data_root), asked) == elsewhere.shares(base, str(data_root), asked)
    left_out = trained_on("everyday", "leave_one_set_out", fold=3)
    again = dataclasses.replace(left_out, provenance=dataclasses.replace(left_out.provenance, figures=figures))
    assert elsewhere.shares(again, str(data_root), asked) == [Share("kard", "own", is_trained=True)]


def test_shares_of_rendered_everyday_are_as_of_its_sets(data_root):
    """The rendered clips show the movements of the sets' people."""
    package_ = trained_on("rendered_everyday", "person", sets=["nucla", "kard"])
    assert elsewhere.trained_sets(package_) == {"nucla": "person", "kard": "person"}
    found = elsewhere.shares(package_, str(data_root), ["utd_mhad", "kard"])
    assert found == [Share("utd_mhad", "own"), Share("kard", "person", is_trained=True)]
    whole = elsewhere.trained_sets(trained_on("rendered_everyday", "leave_one_set_out", fold=3))
    assert set(whole.values()) == {""} and "kard" not in whole and len(whole) == 6


def test_left_out_takes_the_people_that_trained_the_base(data_root):
    """By another split, some of them would be the base's test part."""
    without = trained_on("everyday", "leave_one_set_out", fold=7)
    for split in ("person", "own"):
        found = elsewhere.left_out(without, str(data_root), trained_on("everyday", split))
        assert found == [Share("hdm05", split, "train")]


def test_left_out_takes_only_sets_of_the_recipe(data_root):
    """Others did not train any network of the recipe."""
    base = trained_on("everyday", "person", sets=["nucla", "kard"])
    without = trained_on("everyday", "leave_one_set_out", fold=3, sets=["nucla", "kard"])
    assert elsewhere.left_out(without, str(data_root), base) == [Share("kard", "person", "train")]


def test_trained_sets_of_shipped_bases():
    everyday, opened = (elsewhere.trained_sets(zoo.find(name)) for name in ("joint_tcn_everyday", "joint_tcn_open"))
    assert everyday["utd_mhad"] == "own" and set(opened) == {"hdm05"}


def test_measure_without_a_new_set_has_a_note(data_root):
    figures = elsewhere.measure(open_model("deepacts_graph_nucla"), str(data_root), {"sets": ["nucla"]})
    assert figures["sets"] == []
    assert "not measured: all clips of these sets may have trained the model" in elsewhere.text([figures])


def test_measure_model_of_images_has_a_note(data_root):
    taken = open_model("deepacts_graph_nucla")
    image = InputSpec("image", "image", "CTHW", (3, 60, 16, 16))
    package_ = dataclasses.replace(taken.package, inputs=(*taken.package.inputs, image))
    model: Any = SimpleNamespace(name="images", package=package_, session=taken.session)
    figures = elsewhere.measure(model, str(data_root), {"sets": ["kard"]})
    assert figures["sets"] == [] and "it takes color" in figures["note"]


def test_measure_set_without_a_clip_that_tests_is_omitted(data_root, monkeypatch):
    clips = elsewhere.shared_clips

    def without_kard(root, share, options):
        found, truth = clips(root, share, options)
        return (found.subset([]), truth[:0]) if share.name == "kard" else (found.subset(range(4)), truth[:4])

    monkeypatch.setattr(elsewhere, "shared_clips", without_kard)
    monkeypatch.setattr(elsewhere, "recordings", lambda *arguments: [])
    model, sets = open_model("deepacts_graph_nucla"), ["kard", "utd_mhad"]
    assert [row["set"] for row in elsewhere.measure(model, str(data_root), {"sets": sets})["sets"]] == ["utd_mhad"]
    figures = elsewhere.measure(model, str(data_root), {"sets": ["kard"]})
    assert figures["sets"] == [] and "no clips of the parts that test" in elsewhere.text([figures])


def test_measure_classes_that_no_training_clip_showed_are_other_actions(data_root, monkeypatch):
    """As of a network that was trained without the only set that has them."""
    clips = elsewhere.shared_clips

    def some(root, share, options):
        found, truth = clips(root, share, options)
        chosen = [place for name in ("pick up", "throw") for place in np.flatnonzero(truth == name)[:3]]
        return found.subset(chosen), truth[chosen]

    monkeypatch.setattr(elsewhere, "shared_clips", some)
    monkeypatch.setattr(elsewhere, "recordings", lambda *arguments: [])
    model: Any = open_model("deepacts_graph_nucla")
    row = elsewhere.measure(model, str(data_root), {"sets": ["utd_mhad"]})["sets"][0]
    assert (row["clips"], row["other_clips"], set(row["classes"])) == (6, 0, {"pick up", "throw"})
    of = dataclasses.replace(model.package.provenance, figures={provenance.ABSENT: ["throw"]})
    monkeypatch.setattr(model.session, "package", dataclasses.replace(model.package, provenance=of))
    row = elsewhere.measure(model, str(data_root), {"sets": ["utd_mhad"]})["sets"][0]
    assert (row["clips"], row["other_clips"], set(row["classes"])) == (3, 3, {"pick up"})


def test_section_names_test_parts_of_the_same_people_and_the_share_found():
    rows = [
        {"set": name, "trained": True, "split": split, "clips": 10, "top1": 0.9, "right": 0.8, "unknown": 0.1,
         "wrong": 0.1, "other_clips": 0, "others_labeled": None, "found_share": 0.55, "actions": 20, "minutes": 1.0,
         "false_events_per_minute": 1.24, "classes": {}}
        for name, split in (("nucla", "own"), ("bandai_namco", "own"), ("kard", "own"), ("nucla", "person"))
    ]  # fmt: skip
    text = elsewhere.section([{"model": "mine", "sets": rows}], "mine")
    names = ("nucla (another view)", "bandai_namco (other styles)", "kard (test people)", "nucla (test people)")
    assert [line for line in text.splitlines() if line.endswith("| 55 | 1.2 |")] == [
        f"| {name} | 10 | 90 | 80 / 10 / 10 | 0 | - | 55 | 1.2 |" for name in names
    ]


def test_shares_unknown_set_raises_config_error(data_root):
    with pytest.raises(ConfigError, match="everyday has no set 'kards'|everyday has no set kards"):
        elsewhere.shares(zoo.find("deepacts_graph_nucla"), str(data_root), ["kards"])


def test_known_truth_has_actions_outside_everyday_that_a_model_knows(data_root):
    share = Share("utd_mhad", "own")
    clips, truth = elsewhere.shared_clips(str(data_root), share, {})
    assert {*truth} <= {*Everyday.classes, UNKNOWN} and "knock on door" not in Everyday.classes
    found = elsewhere.known_truth(clips, truth, share, ["knock on door", "wave"])
    changed = found != truth
    assert {*found[changed]} == {"knock on door"} and {*truth[changed]} == {UNKNOWN} and changed.sum() == 16
    np.testing.assert_array_equal(elsewhere.known_truth(clips, truth, share, ["wave"]), truth)


def test_recordings_hold_the_people_of_a_share_with_all_their_actions(data_root):
    """A model of UTD-MHAD knows "knock", which is no class of `everyday`."""
    (recording,) = elsewhere.recordings(str(data_root), Share("utd_mhad", "own"), {}, people=1, minutes=4.0)
    assert int(recording.sequence.name.rsplit("_", 1)[1]) % 2 == 0, "the test part is people with even numbers"
    labels = {each.label for each in recording.actions}
    assert labels & {"wave", "clap", "sit down"} and labels - {*Everyday.classes}
    assert UNKNOWN not in labels
    (first, *_) = elsewhere.recordings(str(data_root), Share("cad60", "own"), {})
    assert first.minutes > 0.5 and len(first.actions) == 1


def write_nucla(folder):
    """Two people drop trash and walk in three views; as published, view 3 of "drop trash" is a copy of view 2."""
    folder.mkdir()
    for action, subject, view in product((3, 4), (1, 2), (1, 2, 3)):
        rng = np.random.default_rng([action, subject, 2 if (action, view) == (3, 3) else view])
        joints = rng.normal((0, 0, 3), 0.4, (20, 3)) + rng.normal(0, 0.02, (24, 20, 3)).cumsum(axis=0)
        name = f"a{action:02}_s{subject:02}_e00_v{view:02}"
        content = {"file_name": name, "label": action, "skeletons": joints.tolist()}
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("share", "views"),
    [
        (Share("nucla"), {3: [1, 2], 4: [1, 2, 3]}),
        (Share("nucla", "person"), {3: [1, 2], 4: [1, 2, 3]}),
        (Share("nucla", "own"), {4: [3]}),
        (Share("nucla", "own", is_trained=True), {4: [3]}),
        (Share("nucla", "own", "train"), {3: [1, 2], 4: [1, 2]}),
    ],
)
def test_copies_count_once_and_not_if_the_other_part_has_them(tmp_path, share, views):
    """The other part trained the model, or its thresholds were chosen on it."""
    write_nucla(tmp_path / "nucla")
    people = [2] if share.key == "person" else [1, 2]
    expected = {f"nucla/a{a:02}_s{s:02}_e00_v{v:02}" for a, shown in views.items() for s in people for v in shown}
    clips, truth = elsewhere.shared_clips(str(tmp_path), share, {"trim": False})
    assert len(clips) == len(truth) == len(expected) and {*clips.names} == expected
    played, again = (elsewhere.recordings(str(tmp_path), share, {}, people=0) for _ in range(2))
    assert len(played) == len(people) and sum(len(each.actions) for each in played) == len(expected)
    assert {action.label for each in played for action in each.actions} == {*truth}
    for one, other in zip(played, again, strict=True):
        np.testing.assert_array_equal(one.sequence.bodies, other.sequence.bodies)


@pytest.mark.slow
def test_figures_are_written_to_the_card(data_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(elsewhere, "recordings", lambda *_: [])
    words = ["eval", "deepacts_graph_nucla", "sem_net_shrec17", "--elsewhere", "--data", str(data_root), "--json"]
    assert cli.main([*words, "--option", "sets=[hdm05]", "--threads", "1", "--quiet"]) == 0
    text = capsys.readouterr().out
    (graph, hand) = json.loads(text)
    (row,) = graph["sets"]
    assert row["set"] == "hdm05" and set(row["classes"]) == {"pick up"} and row["other_clips"] > 100
    assert row["right"] + row["unknown"] + row["wrong"] == pytest.approx(1.0, abs=2e-4)
    assert hand["note"] == "not measured: no other dataset of hand_22 is available"
    (tmp_path / "figures.json").write_text(text)
    more = ["--figures", str(tmp_path / "figures.json"), "--overwrite", "--no-weights"]
    for name in ("sem_net_shrec17", "deepacts_graph_nucla"):
        for source in (name, str(tmp_path / name)):  # twice: a card has the section once
            written = json.loads(text)[name == "sem_net_shrec17"]
            (tmp_path / "figures.json").write_text(json.dumps([written]))
            assert cli.main(["export", source, "--out", str(tmp_path / name), *more]) == 0
        card = (tmp_path / name / "README.md").read_text()
        assert card.count(f"## {elsewhere.HEADING}") == 1
        assert ("| hdm05 |" in card and "- pick up: hdm05 " in card) or "no other dataset of hand_22" in card
    (tmp_path / "figures.json").write_text(json.dumps([{**graph, "thresholds": "0.1 None 0 []"}]))
    assert cli.main(["export", "deepacts_graph_nucla", "--out", str(tmp_path / "other"), *more]) == 2
    assert "--figures are of deepacts_graph_nucla with other thresholds" in capsys.readouterr().err
    assert cli.main(["export", "deepacts_graph_utd_mhad", "--out", str(tmp_path / "other"), *more]) == 2
    assert "run actrec eval deepacts_graph_utd_mhad --elsewhere --json" in capsys.readouterr().err


def test_section_names_the_other_model_of_a_row_of_its_test_people():
    row = {"set": "kard", "trained": True, "split": "own", "clips": 10, "top1": 0.9, "right": 0.8, "unknown": 0.1,
           "wrong": 0.1, "other_clips": 0, "others_labeled": None, "found_share": None,
           "false_events_per_minute": None, "classes": {}}  # fmt: skip
    text = elsewhere.section([{"model": "mine", "sets": [row]}, {"model": "without_hdm05", "sets": [row]}], "mine")
    assert text.count("| kard (test people) |") == 1
    assert "| kard (without_hdm05, test people) |" in text


def test_figures_of_a_lower_precision_are_refused(tmp_path, monkeypatch):
    made = write_tiny(tmp_path / "tiny")
    monkeypatch.setattr(elsewhere, "shares", lambda *_: [])
    backend = SimpleNamespace(config=SimpleNamespace(precision="int8"))
    model: Any = SimpleNamespace(name="tiny", package=made, session=SimpleNamespace(backend=backend))
    (tmp_path / "figures.json").write_text(json.dumps([elsewhere.measure(model, "", {})]))
    with pytest.raises(ConfigError, match="--figures are of tiny in int8"):
        repackage.add_figures(made.path, tmp_path / "out", [tmp_path / "figures.json"])
