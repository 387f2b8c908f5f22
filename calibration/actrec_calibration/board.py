"""The boards that cameras are calibrated with: ChArUco and chessboard, as geometry, as a picture, as found in images.

A ChArUco board is the better choice. Every corner has a name, so that a view may show a part of the board and reach
into the image's corners, where lenses distort most; and a mirrored or upside-down picture is told from a right one.

A board to print, at its true size: PDF with exact edges, or PNG with its resolution in the file.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.utils.config import build, setting, validate
from actrec.utils.errors import ConfigError, DeviceError

CHARUCO, CHESSBOARD = "charuco", "chessboard"

DICTIONARIES = tuple(f"{bits}x{bits}_{count}" for bits in (4, 5, 6, 7) for count in (50, 100, 250, 1000))


@dataclass(frozen=True)
class BoardConfig:
    """What a board looks like."""

    kind: str = setting(CHARUCO, "Kind of board.", choices=(CHARUCO, CHESSBOARD))
    columns: int = setting(
        9, "Across: squares of a ChArUco board, inner corners of a chessboard (as OpenCV counts).", range=(3, 50)
    )
    rows: int = setting(6, "Down: squares of a ChArUco board, inner corners of a chessboard.", range=(3, 50))
    square: float = setting(0.030, "Side of a square: measure it on the print.", unit="m", range=(0.001, 2.0))
    marker: float = setting(0.020, "Side of a ChArUco board's markers.", unit="m", range=(0.0005, 2.0))
    dictionary: str = setting("4x4_50", "ArUco dictionary of a ChArUco board's markers.", choices=DICTIONARIES)
    legacy: bool = setting(
        False, "ChArUco board of OpenCV before 4.6 (with an even number of rows its top left square has a marker)."
    )


@dataclass(frozen=True)
class Detection:
    """Corners of a board found in an image.

    Attributes:
        ids: [n] int, rows of `Board.points`, ascending.
        pixels: [n, 2] float64 (u, v), pixel centers at integers.
    """

    ids: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Board(BoardConfig):
    """A board.

    Its frame: the origin is the outer corner of the top left square, x runs to the right along the print, y down, and
    z away from who looks at it, into the board: a board held upright before a camera has the camera's own axes.

    Raises:
        ConfigError: A setting is out of range, the markers do not fit the squares, or the dictionary has too few.
    """

    def __post_init__(self) -> None:
        validate(self)  # each setting before what they are together
        if self.kind == CHESSBOARD:
            return
        if self.marker >= self.square:
            raise ConfigError(f"markers of {self.marker} m do not fit squares of {self.square} m: give both in metres")
        needed, known = self.columns * self.rows // 2, int(self.dictionary.split("_")[1])
        if needed > known:
            raise ConfigError(
                f"a board of {self.columns}×{self.rows} squares needs {needed} markers and {self.dictionary} has "
                f"{known}: choose a larger dictionary of --dictionary"
            )

    @classmethod
    def of(cls, **options: Any) -> "Board":
        """A board of validated options.

        Raises:
            ConfigError: An option is unknown, mistyped or out of range.
        """
        return build(cls, options)

    @property
    def squares(self) -> tuple[int, int]:
        """Squares across and down."""
        more = 1 if self.kind == CHESSBOARD else 0
        return self.columns + more, self.rows + more

    @property
    def corners(self) -> tuple[int, int]:
        """Inner corners across and down."""
        across, down = self.squares
        return across - 1, down - 1

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in metres, from the outer edge of the first square to that of the last."""
        across, down = self.squares
        return across * self.square, down * self.square

    @cached_property
    def points(self) -> np.ndarray:
        """[K, 3] float64 metres in the board's frame, z = 0: the inner corners, row by row."""
        across, down = self.corners
        x, y = np.meshgrid(np.arange(1, across + 1), np.arange(1, down + 1))
        return np.stack([x.ravel(), y.ravel(), np.zeros(across * down)], axis=1) * self.square

    @property
    def ambiguous(self) -> bool:
        """Whether the board looks the same after half a turn: such a pose is one of two (no matter to intrinsics)."""
        across, down = self.corners
        return self.kind == CHESSBOARD and (across + down) % 2 == 0

    @property
    def tells_mirrored(self) -> bool:
        """Whether a mirrored picture can be told from a right one.

        A chessboard with an even number of corners along a side is its own mirror image; nothing shows it then.
        """
        across, down = self.corners
        return self.kind == CHARUCO or (across % 2 == 1 and down % 2 == 1 and across != down)

    @cached_property
    def rectangles(self) -> np.ndarray:
        """[n, 4] metres (left, top, right, bottom) that are black: disjoint, all of the print."""
        across, down = self.squares
        cells = []
        number = 0
        for row in range(down):
            for column in range(across):
                if self._is_black(column, row):
                    cells.append(np.array([[0, 0, 1, 1]]) * self.square + self._place(column, row))
                elif self.kind == CHARUCO:
                    cells.append(self._marker(number) + self._place(column, row))
                    number += 1
        return np.concatenate(cells)

    def picture(self, pixels_per_m: float, margin: float = 0.0) -> np.ndarray:
        """[H, W] uint8: the print, with the exact share of black in each pixel, and a white margin in metres around it.

        The outer corner of the top left square is `margin · pixels_per_m` from the picture's corner (not from the
        center of its first pixel).
        """
        width, height = (round((side + 2 * margin) * pixels_per_m) for side in self.size)
        black = np.zeros((height, width), np.float32)
        for left, top, right, bottom in (self.rectangles + margin) * pixels_per_m:
            x0, x1, y0, y1 = int(left), int(np.ceil(right)), int(top), int(np.ceil(bottom))
            black[y0:y1, x0:x1] += np.outer(_shares(top, bottom, y0, y1), _shares(left, right, x0, x1))[
                : height - y0, : width - x0
            ]
        return np.round(255 * (1 - np.clip(black, 0, 1))).astype(np.uint8)

    def detect(self, image: np.ndarray) -> Detection | None:
        """Finds the board.

        Args:
            image: [H, W, 3] RGB or [H, W] gray, uint8.

        Returns:
            The corners seen; None where the board is not in the image (of a chessboard: not whole).

        Raises:
            InputError: The picture is mirrored (see `tells_mirrored`), or no uint8 image.
        """
        from actrec_calibration import detection

        return detection.detect(self, image)

    def _is_black(self, column: int, row: int) -> bool:
        first = self.legacy and self.kind == CHARUCO and self.rows % 2 == 0
        return (column + row + first) % 2 == 0

    def _place(self, column: int, row: int) -> np.ndarray:
        return np.array([column, row, column, row]) * self.square

    def _marker(self, number: int) -> np.ndarray:
        """[n, 4] metres in its square: the black cells of a marker."""
        family = aruco_dictionary(self.dictionary)
        bits = family.markerSize + 2
        cells = family.generateImageMarker(number, bits, borderBits=1) == 0
        rows, columns = np.nonzero(cells)
        cell, inset = self.marker / bits, (self.square - self.marker) / 2
        return np.stack([columns, rows, columns + 1, rows + 1], axis=1) * cell + inset


@lru_cache(maxsize=8)
def aruco_dictionary(name: str) -> Any:
    """OpenCV's dictionary of that name (`DICTIONARIES`)."""
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name.upper()}"))


def _shares(start: float, end: float, first: int, last: int) -> np.ndarray:
    """How much of each pixel from `first` up to `last` lies between `start` and `end`."""
    edges = np.clip(np.arange(first, last + 1), start, end)
    return np.diff(edges)


PAPERS = {"a4": (0.297, 0.210), "letter": (0.2794, 0.2159), "a3": (0.420, 0.297), "a2": (0.594, 0.420),
          "a1": (0.841, 0.594), "a0": (1.189, 0.841)}  # fmt: skip
"""Width and height in metres, lying."""

MARGIN = 0.005
"""Metres that most printers leave white."""

PNG_DPI = 600

PNG_MOST_M = max(PAPERS["a0"])
"""Longest side of a board as PNG: twice as long takes gigabytes of memory."""

_POINTS_PER_M = 72 / 0.0254

_RULER = 0.1


def write(board: Board, path: Path, paper: str | None = None) -> str:
    """Writes a PDF or PNG, by the file's ending.

    Args:
        board: To print.
        path: The file.
        paper: A name in `PAPERS`; the smallest that fits by default. A PNG has no paper.

    Returns:
        The paper's name; empty for a PNG.

    Raises:
        ConfigError: The ending is neither, or the board does not fit the paper, or is too large for a PNG.
        DeviceError: The file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in (".pdf", ".png"):
        raise ConfigError(f"'{path}' is neither .pdf nor .png: choose one of these endings")
    paper = _fitting(board, paper) if kind == ".pdf" else ""
    content = pdf(board, PAPERS[paper]) if kind == ".pdf" else _png(board)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; choose another place") from error
    return paper


def described(board: Board) -> str:
    """The board in one line, with what must be measured on the print."""
    across, down = (board.columns, board.rows)
    if board.kind == CHARUCO:
        marks = f"markers {board.marker * 1000:g} mm, {board.dictionary}{', legacy' if board.legacy else ''}"
        return f"charuco {across} x {down} squares of {board.square * 1000:g} mm, {marks}"
    return f"chessboard {across} x {down} inner corners, squares of {board.square * 1000:g} mm"


def pdf(board: Board, paper: tuple[float, float]) -> bytes:
    """One page with the board in its middle, what it is, and a ruler of 100 mm to check the print by."""
    (width, height), (across, down) = paper, board.size
    left, top = (width - across) / 2, (height + down) / 2  # of the board; a page's y points up
    k = _POINTS_PER_M
    lines = ["0 g"]
    for x0, y0, x1, y1 in board.rectangles:
        lines.append(f"{(left + x0) * k:.4f} {(top - y1) * k:.4f} {(x1 - x0) * k:.4f} {(y1 - y0) * k:.4f} re")
    lines.append("f")
    under = (height - down) / 2 - 0.004
    if under > MARGIN:
        lines += _caption(board, left * k, under * k)
    return _document("\n".join(lines).encode("ascii"), width * k, height * k)


def _caption(board: Board, x: float, y: float) -> list[str]:
    text = f"actrec: {described(board)}. Print at 100 %, glue it flat, measure: this bar is 100 mm"
    end = x + min(_RULER, board.size[0]) * _POINTS_PER_M
    bar = f"0.5 w {x:.4f} {y - 4:.4f} m {end:.4f} {y - 4:.4f} l S" if board.size[0] >= _RULER else ""
    ticks = [f"{at:.4f} {y - 6:.4f} m {at:.4f} {y - 2:.4f} l S" for at in (x, end)] if bar else []
    return ["0.45 g", f"BT /F1 6 Tf {x:.4f} {y + 1:.4f} Td ({text}) Tj ET", bar, *ticks]


def _document(stream: bytes, width: float, height: float) -> bytes:
    packed = zlib.compress(stream)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.4f} {height:.4f}] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>".encode(),
        f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode() + packed + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{place:010d} 00000 n \n" for place in places).encode()
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def _png(board: Board) -> bytes:
    if max(board.size) > PNG_MOST_M:
        across, down = (f"{side * 1000:.0f}" for side in board.size)
        raise ConfigError(
            f"a board of {across}×{down} mm is too large for a PNG of {PNG_DPI} dpi: choose a smaller --square, or "
            "fewer --columns and --rows"
        )
    per_m = PNG_DPI / 0.0254
    data = bytes(cv2.imencode(".png", board.picture(per_m, board.square / 2))[1])
    body = b"pHYs" + struct.pack(">IIB", round(per_m), round(per_m), 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    head = 8 + 25  # signature and IHDR, which the resolution must follow
    return data[:head] + chunk + data[head:]


def _fitting(board: Board, paper: str | None) -> str:
    def fits(name: str) -> bool:
        return all(side + 2 * MARGIN <= sheet for side, sheet in zip(board.size, PAPERS[name], strict=True))

    names = [paper] if paper else list(PAPERS)
    found = next((name for name in names if fits(name)), None)
    if found is None:
        across, down = (f"{side * 1000:.0f}" for side in board.size)
        raise ConfigError(
            f"a board of {across}×{down} mm does not fit {(paper or 'a0').upper()} lying: choose another --paper "
            f"({', '.join(PAPERS)}), a smaller --square, or fewer --columns and --rows"
        )
    return found
