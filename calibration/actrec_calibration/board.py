"""Calibration boards (ChArUco and chessboard): geometry, rendering and printing.

ChArUco is the better choice. Each corner has an identity, so a view may show a part of the board and reach the image's
corners, where lenses distort most; and a mirrored image is detected.
"""

import importlib
import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.utils import folders
from actrec.utils.config import build, setting, validate
from actrec.utils.errors import ConfigError, MissingLibraryError

CHARUCO, CHESSBOARD = "charuco", "chessboard"
DICTIONARIES = tuple(f"{bits}x{bits}_{count}" for bits in (4, 5, 6, 7) for count in (50, 100, 250, 1000))

PAPERS = {"a4": (0.297, 0.210), "letter": (0.2794, 0.2159), "a3": (0.420, 0.297), "a2": (0.594, 0.420),
          "a1": (0.841, 0.594), "a0": (1.189, 0.841)}  # fmt: skip
"""Width and height in m, landscape, in increasing size."""

PAPER_MARGIN = 0.005  # m that most printers cannot print on
PNG_DPI = 600
MAX_PNG_SIDE = max(PAPERS["a0"])  # m; twice as long would take gigabytes of memory
RULER = 0.1  # m


@dataclass(frozen=True)
class Board:
    """A calibration board.

    Its frame: the origin is the outer corner of the top left square; x points right along the print, y down, and z into
    the board. A board held upright in front of a camera has the axes of the camera's optical frame.

    Raises:
        ConfigError: A setting is out of range, the markers do not fit the squares, or the dictionary is too small.
    """

    kind: str = setting(CHARUCO, "Kind of board.", choices=(CHARUCO, CHESSBOARD))
    columns: int = setting(
        9, "Squares of a ChArUco board, or inner corners of a chessboard (as in OpenCV), across.", range=(3, 50)
    )
    rows: int = setting(6, "Squares of a ChArUco board, or inner corners of a chessboard, down.", range=(3, 50))
    square: float = setting(0.030, "Side of a square, measured on the print.", unit="m", range=(0.001, 2.0))
    marker: float = setting(0.020, "Side of a ChArUco board's markers.", unit="m", range=(0.0005, 2.0))
    dictionary: str = setting("4x4_50", "ArUco dictionary of a ChArUco board's markers.", choices=DICTIONARIES)
    legacy: bool = setting(
        False, "ChArUco board of OpenCV before 4.6 (with an even number of rows its top left square has a marker)."
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.kind == CHESSBOARD:
            return
        if self.marker >= self.square:
            raise ConfigError(f"markers of {self.marker} m do not fit squares of {self.square} m: give both in m")
        required, available = self.columns * self.rows // 2, int(self.dictionary.split("_")[1])
        if required > available:
            raise ConfigError(
                f"a board of {self.columns}×{self.rows} squares needs {required} markers and {self.dictionary} has "
                f"{available}: choose a larger --dictionary"
            )

    @classmethod
    def of(cls, **options: Any) -> "Board":
        """Create a board from options that may be unknown or mistyped."""
        return build(cls, options)

    @property
    def squares(self) -> tuple[int, int]:
        """Squares across and down."""
        extra = 1 if self.kind == CHESSBOARD else 0
        return self.columns + extra, self.rows + extra

    @property
    def corners(self) -> tuple[int, int]:
        """Inner corners across and down."""
        return self.squares[0] - 1, self.squares[1] - 1

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of all squares, m."""
        return self.squares[0] * self.square, self.squares[1] * self.square

    @cached_property
    def points(self) -> np.ndarray:
        """[K, 3] inner corners in the board's frame, m, row by row."""
        across, down = self.corners
        x, y = np.meshgrid(np.arange(1, across + 1), np.arange(1, down + 1))
        return np.stack([x.ravel(), y.ravel(), np.zeros(across * down)], axis=1) * self.square

    @property
    def outline(self) -> np.ndarray:
        """[4, 3] outer corners in the board's frame, m, in order."""
        width, height = self.size
        return np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]], np.float64)

    @property
    def ambiguous(self) -> bool:
        """Whether the board looks the same after half a turn: its pose is then one of two."""
        across, down = self.corners
        return self.kind == CHESSBOARD and (across + down) % 2 == 0

    @property
    def detects_mirroring(self) -> bool:
        """Whether a mirrored image can be detected: some chessboards are their own mirror image."""
        across, down = self.corners
        return self.kind == CHARUCO or (across % 2 == 1 and down % 2 == 1 and across != down)

    @cached_property
    def rectangles(self) -> np.ndarray:
        """[n, 4] disjoint black rectangles (left, top, right, bottom), m."""
        across, down = self.squares
        first_is_white = self.legacy and self.kind == CHARUCO and self.rows % 2 == 0
        cells = []
        marker = 0
        for row in range(down):
            for column in range(across):
                offset = np.array([column, row, column, row]) * self.square
                if (column + row + first_is_white) % 2 == 0:
                    cells.append(np.array([[0, 0, 1, 1]]) * self.square + offset)
                elif self.kind == CHARUCO:
                    cells.append(self._marker(marker) + offset)
                    marker += 1
        return np.concatenate(cells)

    def draw(self, pixels_per_m: float, margin: float = 0.0) -> np.ndarray:
        """Draw the board with a white margin in m, [H, W] uint8, with the exact share of black in each pixel.

        The outer corner of the top left square is `margin · pixels_per_m` from the image's corner (not from the center
        of its first pixel).
        """
        width, height = (round((side + 2 * margin) * pixels_per_m) for side in self.size)
        black = np.zeros((height, width), np.float32)
        for left, top, right, bottom in (self.rectangles + margin) * pixels_per_m:
            x0, y0 = int(left), int(top)
            across = np.diff(np.clip(np.arange(x0, np.ceil(right) + 1), left, right))
            down = np.diff(np.clip(np.arange(y0, np.ceil(bottom) + 1), top, bottom))
            part = black[y0 : y0 + len(down), x0 : x0 + len(across)]
            part += np.outer(down, across)[: part.shape[0], : part.shape[1]]
        return np.round(255 * (1 - np.clip(black, 0, 1))).astype(np.uint8)

    def describe(self) -> str:
        """Describe the board in one line, with the lengths to measure on the print."""
        if self.kind == CHARUCO:
            markers = f"markers {self.marker * 1000:g} mm, {self.dictionary}{', legacy' if self.legacy else ''}"
            return f"charuco {self.columns} x {self.rows} squares of {self.square * 1000:g} mm, {markers}"
        return f"chessboard {self.columns} x {self.rows} inner corners, squares of {self.square * 1000:g} mm"

    def _marker(self, number: int) -> np.ndarray:
        """Return [n, 4] black cells of a marker in its square, m."""
        family = aruco_dictionary(self.dictionary)
        bits = family.markerSize + 2
        rows, columns = np.nonzero(family.generateImageMarker(number, bits, borderBits=1) == 0)
        cell, inset = self.marker / bits, (self.square - self.marker) / 2
        return np.stack([columns, rows, columns + 1, rows + 1], axis=1) * cell + inset


@lru_cache(maxsize=8)
def aruco_dictionary(name: str) -> Any:
    """Return OpenCV's dictionary of a name in `DICTIONARIES`."""
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name.upper()}"))


def write(board: Board, path: Path, paper: str | None = None) -> str:
    """Write a board to print, at its true size: PDF with exact edges, or PNG with its resolution in the file.

    Returns:
        Name of the paper in `PAPERS`: the given one, or the smallest that fits; empty for a PNG.

    Raises:
        ConfigError: Unknown suffix, the board does not fit the paper or is too large for a PNG.
        MissingLibraryError: fpdf2 is not installed.
        DeviceError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".pdf", ".png"):
        raise ConfigError(f"'{path}' is neither .pdf nor .png: choose one of these suffixes")
    if paper and suffix == ".png":
        raise ConfigError("--paper is of a PDF: leave it out, or name a .pdf file")
    try:
        fpdf, pillow = importlib.import_module("fpdf"), importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingLibraryError("printing a board needs fpdf2, which brings Pillow: pip install fpdf2") from error
    paper = _fit_paper(board, paper) if suffix == ".pdf" else ""
    content = _pdf(board, fpdf, PAPERS[paper]) if paper else _png(board, pillow)
    folders.write_file(path, content)
    return paper


def _pdf(board: Board, fpdf: Any, paper: tuple[float, float]) -> bytes:
    """Return one page with the board in its center, a description, and a ruler of 100 mm to check the print."""
    width, height = (1000 * side for side in paper)
    across, down = (1000 * side for side in board.size)
    left, top = (width - across) / 2, (height - down) / 2
    page = fpdf.FPDF(unit="mm", format=(width, height))
    page.set_auto_page_break(False)
    page.add_page()
    page.set_fill_color(0)
    for x0, y0, x1, y1 in 1000 * board.rectangles:
        page.rect(left + x0, top + y0, x1 - x0, y1 - y0, style="F")
    caption = top + down + 4
    if caption < height - 1000 * PAPER_MARGIN:
        page.set_font("Helvetica", size=6)
        page.set_text_color(115)
        page.set_draw_color(115)
        has_ruler = board.size[0] >= RULER
        check = "measure: this bar is 100 mm" if has_ruler else "measure a square"
        page.text(left, caption, f"actrec: {board.describe()}. Print at 100 %, glue it flat, {check}")
        if has_ruler:
            end, y = left + 1000 * RULER, caption + 1.8
            page.set_line_width(0.18)
            page.line(left, y, end, y)
            for x in (left, end):
                page.line(x, y - 0.7, x, y + 0.7)
    return bytes(page.output())


def _png(board: Board, pillow: Any) -> bytes:
    if max(board.size) > MAX_PNG_SIDE:
        across, down = (f"{side * 1000:.0f}" for side in board.size)
        raise ConfigError(
            f"a board of {across}×{down} mm is too large for a PNG of {PNG_DPI} dpi: choose a smaller --square, or "
            "fewer --columns and --rows"
        )
    content = io.BytesIO()
    image = pillow.fromarray(board.draw(PNG_DPI / 0.0254, margin=board.square / 2))
    image.save(content, "png", dpi=(PNG_DPI, PNG_DPI))
    return content.getvalue()


def _fit_paper(board: Board, paper: str | None) -> str:
    def fits(name: str) -> bool:
        return all(side + 2 * PAPER_MARGIN <= sheet for side, sheet in zip(board.size, PAPERS[name], strict=True))

    fitting = next(filter(fits, [paper] if paper else list(PAPERS)), None)
    if fitting is None:
        across, down = (f"{side * 1000:.0f}" for side in board.size)
        raise ConfigError(
            f"a board of {across}×{down} mm does not fit {(paper or 'a0').upper()} landscape: choose another --paper "
            f"({', '.join(PAPERS)}), a smaller --square, or fewer --columns and --rows"
        )
    return fitting
