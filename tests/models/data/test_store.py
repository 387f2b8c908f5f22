"""The prepared store equals the dataset for all readers and reports damage."""

import dataclasses
import functools
import json
import mmap
import pickle
import resource
import shutil
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from actrec import datasets
from actrec.cli import main
from actrec.datasets.base import Clip, Entry, Source
from actrec.datasets.store import (
    INDEX,
    MAX_MAPPED_SHARDS,
    STORE,
    PreparedDataset,
    open_store,
    write_head,
    write_index,
)
from actrec.datasets.store_codecs import ImageEncoder, decode_frames, encode_raw
from actrec.datasets.store_writer import ShardWriter, record_batch, shards
from actrec.features.clips import example_clip
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.preparation import Run, prepare
from actrec_models.networks import create as create_network
from tests.models.small import SMALL

FRAMES = 6


@functools.lru_cache
def _specs():
    return create_network("p_i3d", num_classes=2, **SMALL["p_i3d"]).input_specs


class WithImages(Source):
    """Six clips with every known stream."""

    classes = ("still", "moving")
    splits = ("odd", "even")

    def entries(self):
        return [Entry(f"clip{n}", n % 2, {"subject": n, "room": "hall"}) for n in range(6)]

    def read(self, entry):
        clip = example_clip(_specs(), FRAMES, seed=int(entry.meta["subject"]))
        flow = np.random.default_rng(1).normal(0, 1, (FRAMES, 24, 32, 3)).astype(np.float32)
        flow[:, :4] = np.nan
        clip = {**clip, "flow": flow, "motion": np.random.default_rng(2).normal(size=(1, FRAMES, 25, 2))}
        stamps = np.arange(FRAMES) * 33_000_000
        return Clip(entry.name, entry.label, stamps, clip.pop("bodies"), clip)

    def part(self, entry, split):
        self.check(split)
        if entry.meta["subject"] == 5:
            return ""
        return "train" if (entry.meta["subject"] % 2 == 1) == (split == "odd") else "test"


def clips_of(dataset):
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture
def with_images(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS._targets, "with_images", f"{__name__}:WithImages")


@pytest.fixture(scope="module")
def root(data_root):
    """Return the folder of fifty published sequences of N-UCLA."""
    return data_root / "nucla/raw"


@pytest.fixture(scope="module")
def nucla(root, tmp_path_factory):
    """Prepare the fifty sequences and return the store."""
    out = tmp_path_factory.mktemp("stores") / "nucla"
    prepare("nucla", root, out)
    return out


@pytest.fixture
def copy(nucla, tmp_path):
    """Return a copy of the store that a test may change."""
    return shutil.copytree(nucla, tmp_path / "nucla")


def test_store_equals_dataset(nucla, root):
    for part in datasets.PARTS:
        stored = datasets.create("nucla", nucla, split="view", part=part)
        source = datasets.create("nucla", root, split="view", part=part)
        assert (stored.names, stored.metas, stored.classes) == (source.names, source.metas, source.classes)
        assert (stored.layout, stored.streams, len(stored)) == (source.layout, source.streams, len(source))
        np.testing.assert_array_equal(stored.labels, source.labels)
        for clip, expected in zip(clips_of(stored), clips_of(source), strict=True):
            assert (clip.name, clip.label) == (expected.name, expected.label)
            np.testing.assert_array_equal(clip.bodies, expected.bodies)
            np.testing.assert_array_equal(clip.stamps_ns, expected.stamps_ns)
        assert isinstance(stored, PreparedDataset)


def test_store_arrays_memory_mapped_and_read_only(nucla):
    clip = PreparedDataset(nucla)[3]
    held: Any = clip.bodies
    while isinstance(held, np.ndarray):
        held = held.base
    assert isinstance(memoryview(held).obj, mmap.mmap)
    assert not clip.bodies.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        clip.bodies[0] = 0


def test_store_file_count_independent_of_clip_count(nucla):
    assert len(shards(nucla)) == 1 < MAX_MAPPED_SHARDS
    store = PreparedDataset(nucla)
    assert store._maps == {}, "no file is open before a clip is read"
    for index in range(len(store)):
        store[index]
    assert len(store._maps) == 1


def test_store_open_file_limit_not_reported_as_damage(nucla):
    assert len(PreparedDataset(nucla)[0].stamps_ns)  # all modules are loaded
    store = PreparedDataset(nucla)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # for the standard streams only
    try:
        with pytest.raises(DeviceError, match=r"shard_.*Too many open files; raise the limit \(ulimit -n\)"):
            store[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(store[0].stamps_ns)


def test_store_dataset_variants_found_by_name(nucla, data_root):
    assert datasets.folder(nucla.parent, "nucla") == str(nucla)
    assert datasets.folder(data_root, "shrec17_14") == f"{data_root}/shrec17"


def _sum_of_joints(store):
    return float(sum(np.nansum(store[index].bodies) for index in range(10)))


def _names_and_sums(clips):
    return [(clip.name, float(np.nansum(clip.bodies))) for clip in clips]


@pytest.mark.slow
def test_store_other_processes_map_files_again(nucla):
    store = datasets.create("nucla", nucla, part="test")
    expected = _sum_of_joints(store)
    restored = pickle.loads(pickle.dumps(store))
    assert _sum_of_joints(restored) == expected and len(pickle.dumps(store)) < 20_000
    # A forked process could inherit a lock of pytest's or tqdm's threads that is never released.
    loader = DataLoader(store, 50, num_workers=1, collate_fn=_names_and_sums, multiprocessing_context="spawn")
    names, sums = zip(*(pair for batch in loader for pair in batch), strict=True)
    assert names == store.names
    assert sum(sums[:10]) == pytest.approx(expected)


def test_store_clips_are_pickled_with_streams_to_decode(nucla):
    """As Python 3.14, Windows and macOS do it for the processes that read a dataset with added clips."""
    store = datasets.create("nucla", nucla, part="test")
    clip = store[0]
    assert clip.streams
    restored = pickle.loads(pickle.dumps(clip))
    for key, value in clip.streams.items():
        np.testing.assert_array_equal(restored.streams[key], value)


def test_store_fingerprint_depends_on_contents_only(nucla, copy, tmp_path, root):
    train, test = (datasets.create("nucla", nucla, part=part).fingerprint() for part in datasets.PARTS)
    assert train != test
    assert PreparedDataset(copy).fingerprint() == PreparedDataset(nucla).fingerprint()
    other_folder = tmp_path / "again"
    summary = prepare("nucla", root, other_folder, run=Run(shard_bytes=150_000))
    assert summary.shards > 3
    assert summary.fingerprint == PreparedDataset(nucla).fingerprint()


@pytest.mark.usefixtures("with_images")
def test_store_every_stream_restored(tmp_path):
    settings = PrepareConfig(streams=["bodies", "hands", "motion", "flow", "color"])
    prepare("with_images", tmp_path, tmp_path / "out", settings=settings)
    stored = PreparedDataset(tmp_path / "out")
    source = WithImages(tmp_path)
    assert stored.streams == {"bodies", "hands", "flow", "color"}
    for entry, clip in zip(source.entries(), clips_of(stored), strict=True):
        expected = source.read(entry).streams
        assert set(clip.streams) == set(expected)
        for key in set(expected) - {"color", "flow"}:
            np.testing.assert_array_equal(clip.streams[key], expected[key].astype(np.float32))
        assert np.abs(clip.streams["color"].astype(int) - expected["color"]).mean() < 3
        assert clip.streams["color"].dtype == np.uint8
        np.testing.assert_array_equal(np.isnan(clip.streams["flow"]), np.isnan(expected["flow"]))
        bound = np.float32(0.5 * settings.flow_limit_m_s / 127 + 1e-6)
        assert np.nanmax(np.abs(clip.streams["flow"] - np.clip(expected["flow"], -4, 4))) <= bound
        np.testing.assert_array_equal(clip.streams.at("color", np.array([5, 2, 2])), clip.streams["color"][[5, 2, 2]])
        # A window decodes only the images that the network uses.
        window = clip.at_stamps(np.array([0, 0, 100_000_000]))
        np.testing.assert_array_equal(window["color"], clip.streams["color"][[0, 0, 3]])


@pytest.mark.usefixtures("with_images")
@pytest.mark.parametrize("bodies", [True, False], ids=["bodies", "without bodies"])
def test_store_pixels_scaled_with_images(tmp_path, bodies):
    settings = PrepareConfig(streams=[*(["bodies"] if bodies else []), "hands", "motion", "color"], image_height=60)
    clip = _prepared_one(tmp_path, settings)
    expected = WithImages(tmp_path).read(WithImages(tmp_path).entries()[0]).streams
    height, width = clip.streams["color"].shape[1:3]
    assert height == 60
    np.testing.assert_array_equal(clip.streams["size"], [width, height])
    scale = np.array([width, height]) / expected["size"]
    # Pixel centers have integer coordinates, so image corners stay corners.
    for key in ["hand_pixels", *(["pixels"] if bodies else [])]:
        np.testing.assert_allclose(clip.streams[key], (expected[key] + 0.5) * scale - 0.5, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(clip.streams["motion"], expected["motion"] * scale, rtol=1e-4)


@pytest.mark.usefixtures("with_images")
@pytest.mark.parametrize("stream", ["hands", "motion"])
def test_store_pixel_streams_keep_image_size(tmp_path, stream):
    expected = WithImages(tmp_path).read(WithImages(tmp_path).entries()[0]).streams
    streams = _prepared_one(tmp_path, PrepareConfig(streams=[stream])).streams
    np.testing.assert_array_equal(streams["size"], expected["size"])
    assert "pixels" not in streams


def _prepared_one(folder, settings):
    prepare("with_images", folder, folder / "out", settings=settings)
    return PreparedDataset(folder / "out")[0]


@pytest.mark.usefixtures("with_images")
def test_store_parts_and_options_checked(tmp_path):
    prepare("with_images", tmp_path, tmp_path / "out")
    assert datasets.create("with_images", tmp_path / "out", part="train").names == ("clip1", "clip3")
    assert datasets.create("with_images", tmp_path / "out", split="even", part="train").names == (
        "clip0",
        "clip2",
        "clip4",
    )
    for options, message in (
        ({"split": "lunar"}, "split odd, even; got 'lunar'"),
        ({"part": "exam"}, "parts train, test"),
        ({"fold": 2}, "no folds; got fold 2"),
        ({"fold": "abc"}, "with_images's fold is 'abc', expected a number"),
        ({"wings": 2}, "prepared with no wings"),
    ):
        with pytest.raises(ConfigError, match=message):
            datasets.create("with_images", tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="holds with_images, not nucla"):
        datasets.create("nucla", tmp_path / "out")


def test_create_without_the_options_of_a_store_warns_once(tmp_path, caplog):
    """Else a store of some clips would train as if it held all."""
    options = {"clips": 1}
    prepare("acted", tmp_path, tmp_path / "out", options=options, run=Run(workers=0))
    datasets.create("acted", tmp_path / "out", **options)
    assert "was prepared with" not in caplog.text
    for part in ("train", "test"):
        datasets.create("acted", tmp_path / "out", part=part)
    assert caplog.text.count("was prepared with clips=1, which is not asked for") == 1


# -- damage ------------------------------------------------------------------------------------------------------------


def shard_of(store):
    return shards(store)[0]


def test_store_flipped_bit_reported_and_repaired(copy, root, tmp_path, capsys):
    published = tmp_path / "published"
    published.mkdir()
    (published / "nucla").symlink_to(root)
    store = PreparedDataset(copy)
    row = store._index.rows[store._index.first[7] + 1]
    with open(shard_of(copy), "r+b") as file:
        file.seek(int(row["offset"]) + 100)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    name = store.names[7]
    with pytest.raises(
        InputError, match=rf"shard_\w+.arrow' is damaged at byte \d+ \(bodies of clip '{name}'.*--repair"
    ):
        PreparedDataset(copy)[7]
    command = ["prepare", "nucla", "--data", str(published), "--out", str(copy), "--quiet", "--workers", "0"]
    assert main([*command, "--check", "--repair"]) == main([*command, "--check", "--prune"]) == 2
    assert "--check only looks, --prune changes the store: give one of them" in capsys.readouterr().err
    assert main([*command, "--check"]) == 1
    assert f"1 of {len(store)} clips damaged" in capsys.readouterr().out
    assert main([*command, "--repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"] == 1
    assert main([*command, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == []


def test_store_truncated_or_lost_shard_raises_on_open(copy, root):
    path = shard_of(copy)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(InputError, match=rf"{path.name}' is truncated: {size // 2} of {size} bytes.*--repair"):
        PreparedDataset(copy)
    summary = prepare("nucla", root, copy)
    assert 0 < summary.prepared < summary.clips == 50
    for shard in shards(copy):
        shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        PreparedDataset(copy)
    assert prepare("nucla", root, copy).prepared == 50


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        (STORE, b"{", InputError, "store.json' is damaged"),
        (STORE, b'{"schema": 99}', InputError, "schema 99, this actrec reads 3: prepare"),
        (STORE, b'{"schema": 1, "streams": ["color"]}', InputError, "^.*schema 1, this actrec reads 3: prepare.*again"),
        (STORE, b'{"schema": 2, "streams": ["color"]}', InputError, "^.*schema 2, this actrec reads 3: prepare.*again"),
        (STORE, b'{"schema": 3, "wings": 2}', InputError, "damaged or foreign"),
        (STORE, None, DeviceError, "no prepared dataset"),
        (INDEX, b"", InputError, "index.npz' is damaged.*run the same actrec prepare again"),
        (INDEX, None, InputError, "index.npz' cannot be read"),
    ],
)
def test_store_damaged_settings_or_index_raises(copy, file, content, error, message):
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(error, match=message):
        PreparedDataset(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", ""])
def test_store_index_that_names_a_file_outside_is_refused(copy, name):
    (copy.parent / "secret").write_bytes(bytes(1 << 20))
    head, index = open_store(copy)
    sha256 = write_index(copy, dataclasses.replace(index, shards=np.array([name] * len(index.shards))))
    write_head(copy, dataclasses.replace(head, index_sha256=sha256))
    with pytest.raises(InputError, match=f"index.npz' names '{name}', which is not in its folder"):
        PreparedDataset(copy)


@pytest.mark.parametrize("schema", [1, 2])
def test_prepare_into_store_of_earlier_schema_raises(tmp_path, root, schema):
    (tmp_path / STORE).write_text(json.dumps({"schema": schema}))
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(InputError, match=f"^.*schema {schema}, this actrec reads 3: prepare.*again.*$"):
        prepare("nucla", root, tmp_path)


def test_store_lost_index_rebuilt(copy, root):
    fingerprint = PreparedDataset(copy).fingerprint()
    (copy / INDEX).unlink()
    summary = prepare("nucla", root, copy)
    assert (summary.prepared, summary.fingerprint) == (0, fingerprint)


# -- codecs and writer -------------------------------------------------------------------------------------------------


def test_image_encoder_repeated_images_stored_once():
    encoder = ImageEncoder("color", 95, 4.0)
    for stamp in (0, 10):
        encoder.add(stamp, np.full((8, 8, 3), 20 * stamp, np.uint8))
    encoded = encoder.encoded(np.array([0, 1, 2, 9, 10, 30]))
    content = memoryview(encoded.content)
    images = decode_frames(content, "jpeg", encoded.shape, range(6), 4.0)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 0, 0, 200, 200, 200])
    assert content.nbytes == 2 * 6 * 8 + sum(map(len, encoder._coded)) and len(encoder) == 2
    with pytest.raises(InputError, match="another|after"):
        encoder.add(20, np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(InputError, match="two images of 10 ns"):
        encoder.add(10, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="image 0 of 6 cannot be decoded"):
        decode_frames(memoryview(encoded.content[:96] + bytes(len(content))), "jpeg", encoded.shape, [0], 4.0)


def test_writer_large_clips_start_new_shards(tmp_path):
    writer = ShardWriter(tmp_path, limit=3000)
    names = []
    for size in (100, 100, 2000, 9000, 10):
        writer.add("clip", 0, record_batch([encode_raw("bodies", np.zeros(size, np.uint8))]))
        names.append(writer.path.name)
    writer.close()
    assert names[0] == names[1] != names[2] and len(set(names)) == 4
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    with pytest.raises(InputError, match="complex"):
        encode_raw("bodies", np.zeros(3, complex))
