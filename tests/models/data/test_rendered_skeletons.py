"""Recorded skeletons, rendered and estimated again as training clips."""

import numpy as np

from actrec import cli, datasets
from actrec_models.data import rendered_skeletons


def test_prepare_render_every_writes_readable_clips(data_root, tmp_path, capsys):
    out = tmp_path / "rendered.npz"
    arguments = ["--data", str(data_root), "--render-every", "300", "--workers", "1", "--out", str(out)]
    assert cli.main(["prepare", "utd_mhad", *arguments]) == 0
    assert f"{out}: 2 of 2 clips" in capsys.readouterr().out
    official = datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")
    for clip in rendered_skeletons.read(out):
        recorded = official[official.names.index(clip.name)]
        clip, recorded = clip.leveled(), recorded.leveled()
        assert clip.label == recorded.label and clip.bodies.shape[2:] == (25, 3)
        assert np.diff(clip.stamps_ns).min() >= 1e9 / 15 - 1
        hips = clip.bodies[0, len(clip.stamps_ns) // 2, 0], recorded.bodies[0, len(recorded.stamps_ns) // 2, 0]
        assert np.linalg.norm(hips[0] - hips[1]) < 0.3


def test_prepare_render_every_without_file_is_refused(data_root, capsys):
    assert cli.main(["prepare", "utd_mhad", "--data", str(data_root), "--render-every", "300"]) == 2
    assert "--out FILE.npz" in capsys.readouterr().err


def test_prepare_render_every_of_hands_is_refused(data_root, tmp_path, capsys):
    arguments = ["--data", str(data_root), "--render-every", "300", "--out", str(tmp_path / "hands.npz")]
    assert cli.main(["prepare", "shrec17_14", *arguments]) == 2
    assert "hand_22" in capsys.readouterr().err
