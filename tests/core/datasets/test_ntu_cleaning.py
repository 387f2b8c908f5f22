"""Which bodies of a recording are kept."""

import numpy as np
import pytest

from actrec.datasets.ntu.skeletons import BodyCleaning, clean, read_ntu_skeleton
from actrec.utils.config import build
from actrec.utils.errors import ConfigError
from tests import ntu_text

T = 40


@pytest.fixture
def read(tmp_path):
    def make(bodies, frames=T):
        return read_ntu_skeleton(ntu_text.write(tmp_path / "a.skeleton", bodies, frames))

    return make


def during(body, start, stop):
    """The body, there from frame `start` to before `stop`."""
    hidden = body.copy()
    hidden[:start] = hidden[stop:] = np.nan
    return hidden


def ids(sequence):
    return [int(body_id.removeprefix("body_")) for body_id in sequence.body_ids]


def test_clean_furniture_and_flicker_removed(read):
    person, table = ntu_text.person(T), ntu_text.person(T, seed=1, x=1, flat=True)
    flicker = during(ntu_text.person(T, seed=2, x=-1, move=1), 5, 15)
    kept = clean(read({1: table, 2: person, 3: flicker}), BodyCleaning())
    assert ids(kept) == [2]
    assert kept.bodies.shape == (1, T, 25, 3) and kept.scores.shape == (1, T, 25) and kept.pixels.shape == (1, T, 25, 2)
    assert np.isfinite(kept.bodies).all()
    every = build(BodyCleaning, {"min_frames": 0, "spread": 0.0, "max_bodies": 0})
    assert len(clean(read({1: table, 2: person, 3: flicker}), every).bodies) == 3


def test_clean_eleven_frames_kept(read):
    person = ntu_text.person(T)
    for frames, kept in ((10, [1]), (11, [1, 2])):
        short = during(ntu_text.person(T, seed=1, x=1), 3, 3 + frames)
        assert sorted(ids(clean(read({1: person, 2: short}), BodyCleaning()))) == kept


@pytest.mark.parametrize(("wide", "kept"), [(27, [1, 2]), (28, [1])])
def test_clean_body_with_few_valid_frames_removed(read, wide, kept):
    """28 of 40 frames are 0.7, 27 are 0.675."""
    other = ntu_text.person(T, seed=1, x=1)
    other[:wide] = ntu_text.person(wide, seed=2, x=1, flat=True)
    assert sorted(ids(clean(read({1: ntu_text.person(T), 2: other}), BodyCleaning()))) == kept


def test_clean_bodies_sorted_by_motion(read):
    people = {n: ntu_text.person(T, seed=0, x=n, move=move) for n, move in ((1, 0.1), (2, 0.5), (3, 0.3))}
    assert ids(clean(read(people), BodyCleaning())) == [2, 3]
    assert ids(clean(read(people), build(BodyCleaning, {"max_bodies": 1}))) == [2]
    assert ids(clean(read(people), build(BodyCleaning, {"max_bodies": 0}))) == [2, 3, 1]


def test_clean_outlier_frames_not_counted_as_motion(read):
    """A body whose noisy frames are spread over the room does not move more for it."""
    wild = ntu_text.person(T, seed=0, x=-1, move=0.1)
    wild[:10] = ntu_text.person(10, seed=3, flat=True) * [3, 1, 1]
    people = {1: wild, 2: ntu_text.person(T, seed=0, x=1, move=0.3)}
    assert ids(clean(read(people), BodyCleaning())) == [2, 1]


def test_clean_person_with_two_ids_merged(read):
    person, other = ntu_text.person(T, move=0.5), ntu_text.person(T, seed=1, x=1, move=0.2)
    lost, found = during(person, 0, 18), during(person, 22, T)
    sequence = read({1: lost, 2: other, 3: found})
    kept = clean(sequence, BodyCleaning())
    assert len(kept.bodies) == 2
    there = np.isfinite(kept.bodies).all((2, 3))
    assert there.sum(1).tolist() == [T - 4, T]
    joined = kept.bodies[0]
    np.testing.assert_allclose(joined[30], person[30] * [-1, -1, 1], rtol=1e-5)
    np.testing.assert_allclose(joined[3], person[3] * [-1, -1, 1], rtol=1e-5)
    apart = clean(sequence, build(BodyCleaning, {"join": False, "max_bodies": 0}))
    assert len(apart.bodies) == 3
    assert np.isnan(sequence.bodies[0, 30]).all()  # the input is unchanged


def test_clean_last_body_kept(read):
    flat = ntu_text.person(5, flat=True)
    assert ids(clean(read({1: flat}, 5), BodyCleaning())) == [1]
    short = {1: during(ntu_text.person(8), 0, 5), 2: ntu_text.person(8, seed=1, x=1)}
    assert ids(clean(read(short, 8), BodyCleaning())) == [2]
    tables = {1: ntu_text.person(T, flat=True), 2: ntu_text.person(T, seed=1, x=1, flat=True)}
    assert len(clean(read(tables), BodyCleaning()).bodies) == 1


def test_clean_empty_or_single_frame_unchanged(read):
    assert clean(read({}, 3), BodyCleaning()).bodies.shape == (0, 3, 25, 3)
    assert clean(read({1: ntu_text.person(1)}, 1), BodyCleaning()).bodies.shape == (1, 1, 25, 3)


def test_clean_recorded_files_result_is_stable(data_root):
    for file in sorted((data_root / "ntu/skeleton").glob("*.skeleton")):
        sequence = read_ntu_skeleton(file)
        np.testing.assert_array_equal(clean(sequence, BodyCleaning()).bodies, sequence.bodies)


def test_clean_invalid_options_raise():
    with pytest.raises(ConfigError, match="unknown option min_frame"):
        build(BodyCleaning, {"min_frame": 3})
    with pytest.raises(ConfigError, match="spread_share is 2"):
        build(BodyCleaning, {"spread_share": 2.0})
