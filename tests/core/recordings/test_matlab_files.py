"""MATLAB files are read as by scipy, and damaged ones are refused without ending the process."""

import io

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from actrec.recordings import matlab_files

ARRAYS = {
    "doubles": np.arange(24.0).reshape(2, 3, 4),
    "singles": np.ones((1, 2), np.float32),
    "bytes": np.arange(200, dtype=np.uint8).reshape(1, -1),
    "small": np.array([[7]], np.int16),
    "empty": np.zeros((0, 3)),
}
LIMIT = 1 << 20


def saved(arrays, **options):
    file = io.BytesIO()
    savemat(file, arrays, **options)
    return file.getvalue()


@pytest.mark.parametrize("do_compression", [True, False])
def test_parse_equals_scipy(do_compression):
    found = matlab_files.parse(saved(ARRAYS, do_compression=do_compression), LIMIT)
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_parse_recording_equals_scipy(data_root):
    for path in sorted((data_root / "utd_mhad").glob("*/*.mat")):
        found, expected = matlab_files.parse(path.read_bytes(), 1 << 28), loadmat(path)
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name])
        assert found.keys() == {name for name in expected if not name.startswith("__")}


def test_parse_cells_and_texts_are_read_and_others_left_out():
    rows = np.empty((1, 2), object)
    rows[0, 0], rows[0, 1] = np.array([[1.0, 2.0]]), np.array([[3.0]])
    arrays = {"cells": rows, "text": "größe", "complex": np.array([[1j]]), "structure": {"a": 1.0}}
    found = matlab_files.parse(saved(arrays), LIMIT)
    assert set(found) == {"cells", "text", "complex"} and found["text"] == "größe" and found["complex"] == 1j
    assert [cell.tolist() for cell in found["cells"].reshape(-1)] == [[[1.0, 2.0]], [[3.0]]]


@pytest.mark.parametrize("do_compression", [True, False])
def test_parse_damaged_file_is_read_or_refused(do_compression):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([[1.0]]), "text"
    content, random = saved({**ARRAYS, "cells": cells}, do_compression=do_compression), np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(content[: random.integers(len(content) // 2, len(content) + 1)])
        for at in random.integers(0, len(damaged), 4):
            damaged[at] = random.integers(256)
        try:
            matlab_files.parse(bytes(damaged), LIMIT)
        except (ValueError, matlab_files.zlib.error) as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(("content", "message"), [(b"", "versions 5 to 7"), (b"MATLAB 7.3" + bytes(600), "-v7")])
def test_parse_other_file_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        matlab_files.parse(content, LIMIT)


def test_parse_more_than_the_limit_is_refused_before_it_is_unpacked():
    with pytest.raises(ValueError, match="its arrays have more than 1000 bytes"):
        matlab_files.parse(saved({"zeros": np.zeros((1000, 1000))}, do_compression=True), 1000)
