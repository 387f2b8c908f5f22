"""NTU RGB+D's `.skeleton` files and the cameras found from them."""

import numpy as np
import pytest

from actrec.datasets.ntu.cameras import fit_cameras
from actrec.datasets.ntu.skeletons import COLOR_SIZE, DEPTH_SIZE, read_ntu_file, read_ntu_skeleton, unmirror
from actrec.utils.camera_model import project
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import kinect_to_optical
from benchmarks import streams
from tests import ntu_text

NAME = "S001C001P001R001A001"


@pytest.fixture
def lines(data_root):
    return (data_root / f"ntu/skeleton/{NAME}.skeleton").read_text().split("\n")


def test_read_ntu_numbers_match_the_files(data_root):
    """Written out again, the recordings are the files: the same lines, and each number that is read as written."""
    files = sorted((data_root / "ntu/skeleton").glob("*.skeleton"))
    assert len(files) == 11
    for file in files:
        text = file.read_text()
        written = [line.split() for line in text.splitlines()]
        again = ntu_text.tokens(read_ntu_file(file))
        assert [len(line) for line in again] == [len(line) for line in written] and text.endswith("\n")
        assert [int(line[0]) for line in written if len(line) == 10] == [line[0] for line in again if len(line) == 10]
        flat, numbers = (np.array([float(x) for line in every for x in line]) for every in (written, again))
        read = ~np.isnan(numbers)
        np.testing.assert_array_equal(flat[read], numbers[read])
        assert read.sum() > 0.6 * len(read)


def test_estimate_cameras_projection_matches_pixels(data_root):
    """Joints projected by the cameras found from them lie within a pixel of the file's own, inferred ones too."""
    for file in sorted((data_root / "ntu/skeleton").glob("*.skeleton")):
        recording = read_ntu_file(file)
        cameras, joints = fit_cameras(recording), kinect_to_optical(recording.positions)
        color, depth = (
            unmirror(recording.color_pixels, COLOR_SIZE[0]),
            unmirror(recording.depth_pixels, DEPTH_SIZE[0]),
        )
        assert np.linalg.norm(cameras.pixels(joints) - color, axis=-1).max() < 1
        assert np.linalg.norm(project(joints, cameras.depth) - depth, axis=-1).max() < 0.5
        # What the Kinect v2's cameras are known to be.
        assert 362 < cameras.depth.fx < 370 and 1040 < cameras.color.fx < 1080
        assert 0.03 < -cameras.offset[0] < 0.08 and abs(cameras.offset[1]) < 0.02


def test_register_ntu_depth_to_color(data_root):
    """Registered depth of a box before a wall shows both in place, without gaps."""
    cameras = fit_cameras(read_ntu_file(data_root / f"ntu/skeleton/{NAME}.skeleton"))
    wall, box = 3.0, 1.5
    depth = np.full(DEPTH_SIZE[::-1], wall, np.float32)
    depth[150:250, 200:300] = box
    seen = cameras.register(depth, 960, 540)
    assert set(np.unique(seen[np.isfinite(seen)])) == {np.float32(wall), np.float32(box)}
    corners = np.array([[200, 150], [299, 249]], np.float32)
    points = np.stack([(corners[:, 0] - cameras.depth.cx) / cameras.depth.fx * box,
                       (corners[:, 1] - cameras.depth.cy) / cameras.depth.fy * box, [box, box]], axis=1)  # fmt: skip
    (left, top), (right, bottom) = np.round((cameras.pixels(points) + 0.5) / 2 - 0.5).astype(int)
    rows, columns = np.nonzero(seen == np.float32(box))
    assert np.abs([rows.min() - top, rows.max() - bottom, columns.min() - left, columns.max() - right]).max() <= 1
    assert (seen[top + 1 : bottom, left + 1 : right] == np.float32(box)).all()
    assert np.isfinite(seen[:, 150:800]).mean() > 0.95  # except behind the box as the other camera sees it
    with pytest.raises(InputError, match=r"\[10, 10\], expected \[424, 512\]"):
        cameras.register(np.ones((10, 10), np.float32), 960, 540)


def test_estimate_cameras_without_joints_raises(tmp_path):
    file = ntu_text.write(tmp_path / "a.skeleton", {7: ntu_text.person(1)}, 1)
    with pytest.raises(InputError, match="25 joints with pixels"):
        fit_cameras(read_ntu_file(file))


def test_estimate_cameras_joints_outside_image_ignored(tmp_path):
    path = ntu_text.write(tmp_path / "a.skeleton", {7: ntu_text.person(40, move=0.3)}, 40)
    truth = fit_cameras(read_ntu_file(path))
    rows = path.read_text().split("\n")
    for number in (5, 60, 200, 700):  # the SDK's value for an unmapped point, and a wrong one
        words = rows[number].split()
        words[5:7] = ["-Infinity", "-Infinity"] if number < 100 else ["-9000", "4000"]
        rows[number] = " ".join(words)
    path.write_text("\n".join(rows))
    found = fit_cameras(read_ntu_file(path))
    assert abs(found.color.fx - truth.color.fx) < 0.5 and abs(found.color.cx - truth.color.cx) < 0.5


def test_read_ntu_ids_beyond_float64_distinct(tmp_path):
    first, second = 72057594037931101, 72057594037931102
    assert float(first) == float(second)
    people = {first: ntu_text.person(3), second: ntu_text.person(3, seed=1, x=1)}
    sequence = read_ntu_skeleton(ntu_text.write(tmp_path / "a.skeleton", people, 3))
    assert sequence.body_ids == (f"body_{first}", f"body_{second}")
    assert np.isfinite(sequence.bodies).all()


@pytest.mark.parametrize("content", ["3\n0\n0\n0\n", "0\n"])
def test_read_ntu_empty_file_returns_no_body(tmp_path, content):
    (tmp_path / "a.skeleton").write_text(content)
    recording = read_ntu_file(tmp_path / "a.skeleton")
    assert recording.positions.shape == (0, int(content[0]), 25, 3) and recording.body_ids == ()


def test_read_ntu_windows_line_ends_and_bom_accepted(tmp_path, lines):
    plain, other = tmp_path / "a.skeleton", tmp_path / "b.skeleton"
    plain.write_text("\n".join(lines))
    other.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    np.testing.assert_array_equal(read_ntu_file(plain).positions, read_ntu_file(other).positions)


def test_read_ntu_invalid_columns_raise(tmp_path, lines):
    """A value moved from one joint to the next: as many numbers, but neither joint is one."""
    moved = lines[10].split()
    lines[10], lines[11] = " ".join(moved[:-1]), moved[-1] + " " + lines[11]
    (tmp_path / "a.skeleton").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"a\.skeleton' line 11 has 11 values; .* has 1, 10 or 12"):
        read_ntu_file(tmp_path / "a.skeleton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:3], "24", *lines[4:]], "frame 1 has a body of 24 joints, expected 25"),
        (lambda lines: ["1", "2", *lines[2:29], *lines[2:29], ""], "frame 1 has body 72057594037931101 twice"),
        (lambda lines: [*lines[:8], "a b " + lines[8], *lines[9:]], "line 9: .*'a'"),
        (lambda lines: ["104", *lines[1:]], "is truncated: it ends 1 values early"),
        (lambda lines: ["102", *lines[1:]], "312 values after the last of 102 frames"),
        (lambda lines: ["-1", *lines[1:]], "-1.0 where a number of frames stands"),
        (lambda lines: [""], "is empty; copy it again"),
        (lambda lines: [*lines[:2], "7.5" + lines[2][17:], *lines[3:]], "'7.5' where a body id stands"),
        (lambda lines: [*lines[:4], lines[4][:-1] + "3", *lines[5:]], "a joint's state is neither 0, 1 nor 2"),
    ],
)
def test_read_ntu_invalid_file_raises(tmp_path, lines, change, message):
    (tmp_path / "a.skeleton").write_text("\n".join(change(lines)))
    with pytest.raises(InputError, match=message) as raised:
        read_ntu_file(tmp_path / "a.skeleton")
    assert "a.skeleton" in str(raised.value)


def test_read_ntu_missing_file_raises(tmp_path):
    with pytest.raises(DeviceError, match=r"none\.skeleton"):
        read_ntu_file(tmp_path / "none.skeleton")


def test_read_ntu_truncated_anywhere_raises(tmp_path):
    """A file cut anywhere is refused, but where white space alone, or digits of its last number, went."""
    whole = ntu_text.write(tmp_path / "a.skeleton", {1: ntu_text.person(2), 2: ntu_text.person(2, seed=1)}, 2)
    content = whole.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content) - 2, 150):
        whole.write_bytes(content[:at])
        with pytest.raises(InputError, match=r"a\.skeleton"):
            read_ntu_file(whole)


def test_read_ntu_damaged_bytes_raise_or_read(tmp_path):
    whole = ntu_text.write(tmp_path / "a.skeleton", {1: ntu_text.person(2), 2: ntu_text.person(2, seed=1)}, 2)
    content, random = whole.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[random.integers(0, 400 if random.random() < 0.5 else len(damaged))] = random.integers(0, 256)
        whole.write_bytes(damaged)
        try:
            sequence = read_ntu_skeleton(whole)
        except InputError as error:
            refused += "a.skeleton" in str(error)
        else:
            assert sequence.bodies.shape[1:] == (2, 25, 3)
    assert refused > 100


def test_bench_ntu_returns_rows(data_root):
    figures = streams.ntu(["--data", str(data_root / "ntu"), "--files", "2", "--repeat", "1"])
    assert figures["files"] == 2 and figures["clips a second, bodies cleaned"] > 0
    assert max(row["color max px"] for row in figures["cameras"]) < 1
    with pytest.raises(DeviceError, match=r"holds no \.skeleton file"):
        streams.ntu(["--data", str(data_root / "nucla")])
