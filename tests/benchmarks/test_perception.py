"""`actrec bench rendered-skeletons` and `mounting`: packages and counts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets import everyday
from actrec.datasets.base import SourceDataset
from actrec.utils import gravity
from actrec.utils.errors import ConfigError
from actrec_models.data import rendered_skeletons
from benchmarks import perception


def test_rendered_skeletons_scores_saved_clips(data_root, tmp_path):
    test = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test")
    rendered_skeletons.write(tmp_path / "kept.npz", [test[i] for i in range(0, len(test), 20)])
    words = ["--data", str(data_root), "--clips", str(tmp_path / "kept.npz")]
    found = perception.rendered_skeletons([*words, "--packages", "deepacts_graph_utd_mhad"])
    assert found["clips"] == 22 and found["left out"] == 0
    told = found["packages"][0]
    assert told["package"] == "deepacts_graph_utd_mhad" and told["right"] >= 20
    assert told["right"] >= told["right and accepted"] >= 18
    assert told["right and accepted"] + told["wrong and accepted"] <= 22


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rendered_skeletons_saves_rendered_test_recordings(data_root, tmp_path):
    kept = tmp_path / "kept.npz"
    words = ["--data", str(data_root), "--every", "400", "--fps", "8", "--packages", "deepacts_graph_utd_mhad"]
    found = perception.rendered_skeletons([*words, "--workers", "1", "--clips", str(kept)])
    assert found["clips"] + found["left out"] == 2
    official = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test")
    for clip in rendered_skeletons.read(kept):
        assert clip.label == official.labels[official.names.index(clip.name)]
        assert np.diff(clip.stamps_ns).min() >= 1e9 / 8 - 1


def test_rendered_skeletons_package_of_other_classes_raises_config_error(data_root):
    words = ["--data", str(data_root), "--packages", "deepacts_graph_nucla"]
    with pytest.raises(ConfigError, match="deepacts_graph_nucla does not have the dataset's 27 classes"):
        perception.rendered_skeletons(words)


def test_targets_of_a_package_of_everyday_actions_are_its_classes_of_the_dataset(data_root):
    session = SimpleNamespace(package=SimpleNamespace(labels=tuple(everyday.vocabulary().classes)))
    classes = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="test").classes
    targets = dict(zip(classes, perception._targets(session, "utd_mhad", classes), strict=True))
    assert targets["wave"] == "wave" and targets["jog in place"] == "run"
    assert targets["pick up and throw"] == targets["tennis serve"] == ""  # two classes, and none


def test_mounting_joints_of_turned_camera_score_like_upright_ones_if_up_is_known(data_root, tmp_path, monkeypatch):
    """A camera that hangs upside down, before the first recordings of one person."""
    test = datasets.create("nucla", str(data_root / "nucla"), part="test")
    assert isinstance(test, SourceDataset)
    first = test.subset([index for index, entry in enumerate(test.entries) if entry.meta["subject"] == 1][:12])
    monkeypatch.setattr(datasets, "create", lambda name, folder, **options: first)
    words = ["--data", str(data_root), "--packages", "deepacts_graph_nucla", "--rolls", "0,180", "--pitches", ""]
    rows = perception.mounting([*words, "--ups", str(tmp_path / "ups.json")])["mountings"]
    right = {(row["roll"], row["up"]): row["deepacts_graph_nucla"] for row in rows}
    assert [row["clips"] for row in rows] == [len(first)] * 6
    assert right[180, "known"] == right[0, "known"] == right[0, "ignored"] >= 9
    assert right[180, "ignored"] <= 4 < 8 <= right[180, "estimated"]
    directions = json.loads((tmp_path / "ups.json").read_text())
    assert len(directions["180,0"]) == len(first)
    roll, pitch = gravity.angles_from_up(np.array(directions["180,0"][-1]))
    assert abs(roll) > 160 and abs(pitch) < 25


def test_mounting_found_skeletons_of_fewer_recordings_have_another_file(tmp_path):
    options = [SimpleNamespace(dataset="nucla", pixels=pixels, found=tmp_path) for pixels in (12, 1)]
    twelfth, every = (perception._file((perception.Mounting(0, -30), "known"), each) for each in options)
    assert twelfth.parent == every.parent == tmp_path and twelfth.name != every.name
