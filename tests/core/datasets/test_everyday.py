"""The merged dataset of everyday actions and its vocabulary."""

import shutil
from functools import partial
from itertools import chain

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.base import Clip, LazyStreams
from actrec.datasets.everyday import FINAL_SETS, SETS, Everyday, vocabulary
from actrec.utils.errors import ConfigError, DeviceError, InputError
from tests.core.datasets.motion_files import FOLDERS


def test_vocabulary_names_are_classes_of_their_datasets():
    words = vocabulary()
    named: dict[tuple[str, str], list[str]] = {}
    every = [
        *words.classes.items(),
        ("skipped", words.skipped),
        *((f"parts of {s}", {s: n}) for s, n in words.parts.items()),
    ]
    for label, sets in every:
        for dataset, names in sets.items():
            assert dataset in (*SETS, *FINAL_SETS)
            for name in names:
                named.setdefault((dataset, name), []).append(label)
                assert name in datasets.DATASETS.get(dataset).classes, (label, dataset, name)
    assert [pair for pair, labels in named.items() if len(labels) > 1] == []
    for shares in chain.from_iterable(names.values() for names in words.parts.values()):
        assert set(shares) <= set(words.classes) and all(0 <= start < end <= 1 for start, end in shares.values())


def test_vocabulary_corrects_exchanged_labels_of_nucla():
    assert vocabulary().actions("nucla", "sit down", "a05_s04_e01_v02") == [("stand up", 0.0, 1.0)]
    assert vocabulary().actions("nucla", "sit down", "a05_s04_e01_v01") == [("sit down", 0.0, 1.0)]
    assert set(vocabulary().corrected["nucla"].values()) <= set(vocabulary().classes)


def test_everyday_license_is_of_the_chosen_sets():
    source = datasets.DATASETS.get("everyday")
    assert source.license_of({}) == source.license_of({"acted": 80}) and "research use" in source.license_of({})
    found = source.license_of({"sets": ["hdm05"], "acted": 80})
    assert found == "hdm05: CC BY-SA 3.0: attribution, share alike; acted: the same as actrec"
    assert "research use" in source.license_of({"sets": ["hdm05", "kard"]})


@pytest.fixture(scope="module")
def root(data_root, small, tmp_path_factory):
    """Three clips of each motion dataset, and UTD-MHAD's published files."""
    root = tmp_path_factory.mktemp("everyday")
    (root / "motion").symlink_to(small)
    (root / "utd_mhad").symlink_to(data_root / "utd_mhad/skeleton")
    return root


def test_everyday_shown_classes_are_the_ones_of_the_merged_sets(root):
    options = {"sets": ["kard", "utd_mhad"], "classes": "shown"}
    source = datasets.source("everyday", root, **options)
    whole = datasets.source("everyday", root, sets=options["sets"])
    assert "pick up" in source.classes and "lie down" not in source.classes  # the first part of "pick up and throw"
    labels = {entry.name: source.classes[entry.label] for entry in source.entries()}
    assert labels == {entry.name: whole.classes[entry.label] for entry in whole.entries()}
    assert set(labels.values()) <= set(source.classes) and len(whole.classes) == len(vocabulary().classes)
    acted = datasets.source("everyday", root, sets=["kard"], classes="shown", acted=1)
    assert "lunge" in acted.classes and "put on" not in acted.classes
    entry = next(entry for entry in acted.entries() if acted.classes[entry.label] == "lunge")
    assert acted.read(entry).label == entry.label


def test_everyday_merges_the_sets_that_are_there(root):
    source = datasets.source("everyday", root)
    entries, unknown = source.entries(), source.unknown_entries()
    labels = {entry.name: source.classes[entry.label] for entry in entries}
    assert labels["kinder_gator/p565_01"] == "raise hand" and labels["kard/a01_s01_e01"] == "swipe"
    assert labels["utd_mhad/a3_s1_t1"] == "wave" and labels["hdm05/hdm_mm_depositfloorr_019_120"] == "pick up"
    assert {entry.meta["set"] for entry in entries} == {*FOLDERS, "utd_mhad"}
    assert all(entry.meta["subject"].startswith(f"{entry.meta['set']}_") for entry in entries)
    assert {e.name for e in unknown} >= {"utd_mhad/a14_s1_t1", "utd_mhad/a16_s1_t1"}  # baseball swing, arm curl
    assert {entry.label for entry in unknown} == {-1}
    everything = [*labels, *(entry.name for entry in unknown)]
    assert len(everything) == len(set(everything)) and "utd_mhad/a12_s1_t1" not in everything  # bowling
    for entry in (*entries[:4], unknown[0]):
        clip = source.read(entry)
        assert (clip.name, clip.label) == (entry.name, entry.label) and np.isfinite(clip.bodies).any()
    assert source.fingerprint(entries) == source.fingerprint(entries) != source.fingerprint(entries[1:])


def test_everyday_two_actions_in_a_clip_become_two_items(root):
    source = datasets.source("everyday", root, sets=["utd_mhad"], trim=False)
    whole = datasets.source("utd_mhad", root / "utd_mhad")
    frames = len(whole.read(next(e for e in whole.entries() if e.name == "a21_s1_t1")).stamps_ns)
    parts = {source.classes[e.label]: source.read(e) for e in source.entries() if e.meta["action"] == 21}
    assert set(parts) == {"pick up", "throw"}
    assert frames <= sum(len(clip.stamps_ns) for clip in parts.values()) <= frames + 1
    head = {name: clip.bodies[0, :, 3, 1].max() for name, clip in parts.items()}
    assert head["pick up"] > head["throw"] + 0.2  # y is down: only the first part bends


@pytest.mark.parametrize("fold", [3, 4])
def test_everyday_leaves_one_set_out(root, fold):
    source = datasets.source("everyday", root, fold=fold)
    tested = {entry.meta["set"] for entry in source.entries() if source.part(entry, "leave_one_set_out") == "test"}
    assert tested == {SETS[fold - 1]}
    people: dict[str, set[str]] = {}
    for entry in source.entries():
        people.setdefault(entry.meta["subject"], set()).add(source.part(entry, "person"))
    assert all(len(parts) == 1 for parts in people.values())
    own = {e.name: source.part(e, "own") for e in source.entries()}
    assert own["utd_mhad/a3_s1_t1"] == "train" and own["hdm05/hdm_mm_depositfloorr_019_120"] == "test"


def test_everyday_invalid_options_and_folders_raise(root, tmp_path):
    with pytest.raises(ConfigError, match="everyday has no set coffee; known: nucla, utd_mhad"):
        datasets.source("everyday", root, sets=["coffee"])
    with pytest.raises(ConfigError, match="fold 1 tests on nucla, which is not merged here; folds: 3 kard$"):
        datasets.create("everyday", root, split="leave_one_set_out", sets=["kard"])
    assert len(datasets.create("everyday", root, split="leave_one_set_out", part="test", sets=["kard"], fold=3)) > 0
    with pytest.raises(DeviceError, match="holds no folder of nucla, utd_mhad"):
        datasets.source("everyday", tmp_path).entries()
    with pytest.raises(DeviceError, match="no folder .*--data or ACTREC_DATA"):
        datasets.source("everyday", tmp_path / "none").entries()
    with pytest.raises(DeviceError, match="no folder .*utkinect"):
        datasets.source("everyday", root, sets=["utkinect"]).entries()


@pytest.mark.slow
def test_everyday_waiting_is_cut_off_and_becomes_unknown(data_root, tmp_path):
    (tmp_path / "kinder_gator").symlink_to(data_root / "motion/kinder_gator")
    trimmed, whole = (datasets.source("everyday", tmp_path, people="children", trim=trim) for trim in (True, False))
    entries = {entry.name: entry for entry in trimmed.entries()}
    unknown = trimmed.unknown_entries()
    idle = [entry for entry in unknown if "#idle" in entry.name]
    assert {e.name for e in unknown} - {e.name for e in idle} == {e.name for e in whole.unknown_entries()}
    assert len(idle) > 20 and {entry.label for entry in idle} == {-1} and len({e.name for e in idle}) == len(idle)
    starts = [entry for entry in idle if entry.name.endswith("#idle_start") and entry.name.split("#")[0] in entries]
    for entry in starts[:5]:
        action = entries[entry.name.split("#")[0]]
        waiting, acting, both = trimmed.read(entry), trimmed.read(action), whole.read(action)
        assert np.ptp(waiting.stamps_ns) >= 1e9 and waiting.bodies.shape[1] == len(waiting.stamps_ns)
        joined = np.concatenate([waiting.bodies, acting.bodies], axis=1)
        np.testing.assert_array_equal(joined, both.bodies[:, : joined.shape[1]])
        assert trimmed.part(entry, "person") == trimmed.part(action, "person")
    assert trimmed.fingerprint([action]) != whole.fingerprint([action])
    seconds = [np.mean([np.ptp(s.read(e).stamps_ns) for e in list(entries.values())[::9]]) for s in (trimmed, whole)]
    assert 0.6 < seconds[0] / seconds[1] < 0.95


def test_everyday_reads_published_nucla_and_leaves_a_damaged_file_to_its_item(data_root, tmp_path):
    raw = sorted((data_root / "nucla/raw").glob("*.json"))
    (tmp_path / "nucla").mkdir()
    for file in raw:
        shutil.copy(file, tmp_path / "nucla")
    (tmp_path / "nucla" / raw[0].name).write_text("{")
    source, packed = datasets.source("everyday", tmp_path), datasets.source("everyday", data_root, sets=["nucla"])
    items = {entry.name: entry for entry in (*packed.entries(), *packed.unknown_entries())}
    found = [*source.entries(), *source.unknown_entries()]
    damaged = [entry for entry in found if raw[0].stem in entry.name]
    assert len(found) > len(damaged) > 0 and {entry.name for entry in found} <= items.keys()
    for entry in damaged:
        with pytest.raises(InputError, match=f"{raw[0].name}' is corrupt"):
            source.read(entry)
    for entry in found:
        if entry not in damaged:
            np.testing.assert_array_equal(source.read(entry).bodies, packed.read(items[entry.name]).bodies)


def test_cut_clip_has_the_images_of_its_frames():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    bodies = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 25, 3), np.float32)
    plain: dict[str, np.ndarray] = {"color": images, "pixels": bodies[..., :2], "up": np.array([0, -1, 0], np.float32)}
    lazy = LazyStreams({key: partial(np.array, value) for key, value in plain.items()}, {"color": images.__getitem__})
    for streams in (plain, lazy):
        cut = Clip("a", 0, np.arange(6) * 10, bodies, streams).cut(slice(2, 5)).cut(slice(1, None))
        assert cut.stamps_ns.tolist() == [30, 40] and cut.streams["color"][:, 0, 0, 0].tolist() == [3, 4]
        assert cut.bodies[0, :, 0, 0].tolist() == cut.streams["pixels"][0, :, 0, 0].tolist() == [3, 4]
        assert cut.streams["up"].tolist() == [0, -1, 0]
        assert cut.at_stamps(np.array([40]))["color"][0, 0, 0, 0] == 4


def test_everyday_who_tests_depends_on_no_option(data_root):
    """Else a person of the training would be tested as a new one."""
    parts = [
        {
            e.name: e.meta["person"]
            for e in Everyday(data_root, sets=["kinder_gator"], people=people, trim=False).entries()
        }
        for people in ("all", "adults")
    ]
    assert parts[1] and parts[1].items() < parts[0].items()


def test_everyday_performances_only_train(root):
    source = datasets.source("everyday", root, acted=1, fold=2)
    acted = [entry for entry in (*source.entries(), *source.unknown_entries()) if entry.meta["set"] == "acted"]
    assert {source.part(entry, split) for entry in acted for split in source.splits} == {"train"}
    assert len({entry.name for entry in acted}) == len(acted)
    clip = source.read(acted[1])
    assert (clip.name, source.classes[clip.label]) == ("acted/raise hand 0", "raise hand")
    assert np.isfinite(clip.bodies).all() and source.fingerprint(acted) != source.fingerprint(acted[1:])
    unknown = [entry for entry in acted if entry.label < 0]
    assert len(unknown) == 8 and source.read(unknown[0]).label == -1, "four of waiting, four of other actions"
