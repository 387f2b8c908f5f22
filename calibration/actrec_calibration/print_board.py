"""A board to print, at its true size: PDF with exact edges, or PNG with its resolution in the file."""

import struct
import zlib
from pathlib import Path

import cv2

from actrec.errors import ConfigError, DeviceError
from actrec_calibration.boards import CHARUCO, Board

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
