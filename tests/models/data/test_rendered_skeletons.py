"""Recorded skeletons rendered and found again by the estimators, as clips to train on."""

import sys

import numpy as np
import pytest

from actrec import datasets
from actrec_models.data import rendered_skeletons


@pytest.mark.parametrize("name", rendered_skeletons.DATASETS)
@pytest.mark.parametrize("part", datasets.PARTS)
def test_rendered_skeletons_parts_match_official_parts(data_root, name, part):
    official = datasets.create(name, str(data_root / name), part=part)
    found = rendered_skeletons.recordings(name, data_root, part)
    assert [(r.name, r.label - 1) for r in found] == list(zip(official.names, official.labels, strict=True))


def test_rendered_skeletons_file_of_estimated_clips_read(data_root, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rendered.npz"
    words = ["--data", str(data_root), "--dataset", "utd_mhad", "--every", "300", "--workers", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["rendered", *words])
    rendered_skeletons.main()
    assert f"2 of 2 clips in {out}" in capsys.readouterr().out
    official = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")
    for clip in rendered_skeletons.read(out):
        recorded = official[official.names.index(clip.name)]
        assert clip.label == recorded.label and clip.bodies.shape[2:] == (25, 3)
        assert np.diff(clip.stamps_ns).min() >= 1e9 / 15 - 1
        hips = clip.bodies[0, len(clip.stamps_ns) // 2, 0], recorded.bodies[0, len(recorded.stamps_ns) // 2, 0]
        assert np.linalg.norm(hips[0] - hips[1]) < 0.3
