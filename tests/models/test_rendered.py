"""Recorded skeletons rendered and found again by the estimators, as clips to train on."""

import sys

import numpy as np

from actrec_models import data
from actrec_models.data import rendered


def test_only_training_parts_are_rendered(data_root):
    for name in ("nucla", "utd_mhad"):
        official = data.create(name, str(data_root / name), part="train")
        assert {r.name for r in rendered.training_recordings(name, data_root)} == set(official.names)


def test_a_file_of_clips_as_the_estimators_find_them(data_root, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rendered.npz"
    words = ["--data", str(data_root), "--dataset", "utd_mhad", "--every", "300", "--workers", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["rendered", *words])
    rendered.main()
    assert f"2 of 2 clips in {out}" in capsys.readouterr().out
    official = data.create("utd_mhad", str(data_root / "utd_mhad"), part="train")
    for clip in rendered.read(out):
        recorded = official[official.names.index(clip.name)]
        assert clip.label == recorded.label and clip.bodies.shape[2:] == (25, 3)
        assert np.diff(clip.stamps_ns).min() >= 1e9 / 15 - 1
        hips = clip.bodies[0, len(clip.stamps_ns) // 2, 0], recorded.bodies[0, len(recorded.stamps_ns) // 2, 0]
        assert np.linalg.norm(hips[0] - hips[1]) < 0.3
