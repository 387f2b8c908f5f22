"""Numbers of a text: each the nearest float64, as Python reads it."""

import numpy as np
import pytest

from actrec.datasets.ntu.numbers import read_numbers


def test_parse_numbers_match_python():
    random = np.random.default_rng(0)
    words = [
        "0",
        "-0",
        "+3",
        "1.",
        ".5",
        "-7.25e-3",
        "1E5",
        "00012.50",
        "nan",
        "-inf",
        "1e400",
        "1e-400",
        "1e22",
        "1e-30",
    ]
    words += ["9007199254740993", "72057594037931101", "123456789012345678901234567890", "0." + "0" * 30 + "1"]
    for value in random.normal(size=2000) * 10.0 ** random.integers(-25, 25, 2000):
        words += [repr(value), f"{value:.7g}", f"{value:e}"]
    numbers = read_numbers(" ".join(words).encode())
    truth = np.array([float(word) for word in words])
    known = ~np.isnan(truth)
    np.testing.assert_array_equal(numbers.values[known].view(np.int64), truth[known].view(np.int64))
    assert np.isnan(numbers.values[~known]).all() and len(numbers.values) == len(words)
    assert [numbers.word(i) for i in range(len(words))] == words


def test_parse_numbers_lines_and_white_space_counted():
    numbers = read_numbers(b"\xef\xbb\xbf1 2\r\n\r\n\t3\x0b4\n5")
    assert numbers.values.tolist() == [1, 2, 3, 4, 5] and numbers.lines.tolist() == [1, 1, 3, 3, 4]
    assert len(read_numbers(b" \n ").values) == 0


@pytest.mark.parametrize("word", ["x", "1_0", "1e", "1e+", "--1", "1.2.3", ".", "-", "\x00", "0x1f", "\u0663", "1,5"])
def test_parse_numbers_invalid_text_raises(word):
    with pytest.raises(ValueError, match="line 2: .* is no number"):
        read_numbers(f"1 2\n3 {word}".encode())
