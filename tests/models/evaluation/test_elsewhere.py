"""Figures of a model on sets of `everyday` that it was not trained on, and their place in the card."""

import dataclasses
import json

import pytest

from actrec import cli
from actrec.datasets.everyday import Everyday, class_of
from actrec.inference import package, zoo
from actrec.types import UNKNOWN
from actrec.utils.errors import ConfigError
from actrec_models.evaluation import elsewhere
from actrec_models.evaluation.elsewhere import Share


def trained_on(dataset: str, split: str, **options: object) -> package.ModelPackage:
    base = zoo.find("deepacts_graph_nucla")
    known = dataclasses.replace(
        base.provenance, dataset=dataset, split=split, settings={"dataset_options": options}, figures={}
    )
    return dataclasses.replace(base, provenance=known)


def test_class_of_maps_a_set_s_own_label():
    assert class_of("nucla", "pick up with two hands") == "pick up"
    assert class_of("everyday", "wave") == class_of("utd_mhad", "wave") == "wave"


def test_shares_are_sets_that_did_not_train_and_test_people_of_others(data_root):
    asked = ["nucla", "utd_mhad", "kard"]
    found = elsewhere.shares(zoo.find("deepacts_graph_nucla"), str(data_root), asked)
    assert found == [Share("utd_mhad", "own"), Share("kard")], "its threshold was chosen on people of utd_mhad"
    found = elsewhere.shares(trained_on("everyday", "own", sets=["kard"]), str(data_root), asked)
    assert found == [Share("nucla"), Share("utd_mhad", "own"), Share("kard", "own", is_trained=True)]
    found = elsewhere.shares(trained_on("everyday", "leave_one_set_out", fold=3), str(data_root), asked)
    assert found == [Share("kard")]


def test_shares_unknown_set_raises_config_error(data_root):
    with pytest.raises(ConfigError, match="everyday has no set 'kards'|everyday has no set kards"):
        elsewhere.shares(zoo.find("deepacts_graph_nucla"), str(data_root), ["kards"])


def test_recordings_hold_the_people_of_a_share_with_all_their_actions(data_root):
    """A model of UTD-MHAD knows "knock", which is no class of `everyday`."""
    (recording,) = elsewhere.recordings(str(data_root), Share("utd_mhad", "own"), {}, people=1, minutes=4.0)
    assert int(recording.sequence.name.rsplit("_", 1)[1]) % 2 == 0, "the test part is people with even numbers"
    labels = {each.label for each in recording.actions}
    assert labels & {"wave", "clap", "sit down"} and labels - {*Everyday.classes}
    assert UNKNOWN not in labels
    (first, *_) = elsewhere.recordings(str(data_root), Share("cad60", "own"), {})
    assert first.minutes > 0.5 and len(first.actions) == 1


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
    assert cli.main(["export", "deepacts_graph_utd_mhad", "--out", str(tmp_path / "other"), *more]) == 2
    assert "run actrec eval deepacts_graph_utd_mhad --elsewhere --json" in capsys.readouterr().err
