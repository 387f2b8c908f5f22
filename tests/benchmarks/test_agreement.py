"""`actrec bench agreement`: matches of detections, and both precisions on real frames."""

import numpy as np
import pytest

from actrec.skeleton.layouts import LAYOUTS
from actrec.utils.errors import ConfigError
from benchmarks import agreement
from benchmarks.agreement import Found, Frames


def test_compared_exchanged_sides_and_missing_bodies_are_counted() -> None:
    rng = np.random.default_rng(0)
    pixels, scores = rng.uniform(0, 300, (33, 2)).astype(np.float32), np.ones(33, np.float32)
    exchanged = Found(pixels[list(LAYOUTS["mediapipe_33"].mirror)], scores)
    one, moved, far = Found(pixels, scores), Found(pixels + np.array([3, 4]), scores), Found(pixels + 400, scores)
    found = {
        "fp32": {"body": [[one, far], [one], [one]], "hand": [[]] * 3, "face": [[]] * 3},
        "int8": {"body": [[far, moved], [exchanged], []], "hand": [[]] * 3, "face": [[]] * 3},
    }
    (row,) = agreement.compared(Frames("made", [None] * 3), found)  # type: ignore[list-item]
    assert (row["reference"], row["of"], row["kind"]) == ("fp32", "int8", "body")
    assert (row["frames"], row["wanted"], row["seen"], row["exchanged"]) == (3, 4, 3, 1)
    assert row["found"] == 0.75 and row["px"] == pytest.approx(5.0, abs=1e-4)


def test_compared_hand_of_the_other_side_is_exchanged() -> None:
    pixels, scores = np.random.default_rng(0).uniform(0, 50, (21, 2)), np.ones(21)
    right, left = Found(pixels, scores, "right"), Found(pixels, scores, "left")
    found = {"fp32": {"body": [[]], "hand": [[left]], "face": [[]]}}
    (row,) = agreement.compared(Frames("made", [None], {"hand": [[right]]}), found)  # type: ignore[list-item]
    assert (row["reference"], row["found"], row["px"], row["exchanged"]) == ("truth", 1.0, 0.0, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_agreement_int8_agrees_with_float32_on_rendered_frames_and_a_recorded_hand(data_root) -> None:
    words = ["--data", str(data_root), "--sources", "rendered,hand_palm", "--frames", "18"]
    rows = {(row["source"], row["kind"], row["reference"], row["of"]): row
            for row in agreement.agreement(words)["compared"]}  # fmt: skip
    assert rows["rendered", "body", "truth", "int8"]["px"] < 5
    assert rows["rendered", "body", "fp32", "int8"]["px"] < 3
    assert rows["hand_palm", "hand", "fp32", "int8"]["found"] == 1


def test_agreement_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="--sources has 'nothing'; known: ntu, .*, rendered"):
        agreement.agreement(["--sources", "nothing"])
