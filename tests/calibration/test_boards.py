"""Boards: geometry, printing, and accuracy of their detection in rendered images."""

import re
import struct
import zlib

import cv2
import numpy as np
import pytest

from actrec.types import Intrinsics
from actrec.utils.camera_model import undistort
from actrec.utils.errors import ConfigError, InputError, MissingLibraryError
from actrec_calibration import board
from actrec_calibration.board import Board, aruco_dictionary
from actrec_calibration.detection import detect
from tests.reference.board_rendering import project_corners, render, sample_poses

CAMERA = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1, (0.08, -0.15, 0.001, -0.0015, 0.03))
CHARUCO = Board.of()
CHESSBOARD = Board.of(kind="chessboard", square=0.025)
ODD = Board.of(kind="chessboard", columns=7, rows=5, square=0.03)


def frontal_pose(board: Board, distance: float = 0.45, roll_deg: float = 0.0, tilt_deg: float = 20.0) -> np.ndarray:
    """Return the pose of a board whose center lies on the optical axis."""
    rotation = cv2.Rodrigues(np.radians([0.0, 0.0, roll_deg]))[0] @ cv2.Rodrigues(np.radians([tilt_deg, 5.0, 0.0]))[0]
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.array([0, 0, distance]) - rotation @ np.array([*board.size, 0]) / 2
    return pose


@pytest.mark.parametrize(
    ("options", "density", "cv2_legacy"),
    [({}, 6000, False), ({"rows": 7, "dictionary": "5x5_100"}, 7000, False), ({"legacy": True}, 6000, True)],
)
def test_draw_charuco_equals_opencv(options, density, cv2_legacy):
    board = Board.of(**options)
    opencv_board = cv2.aruco.CharucoBoard(
        (board.columns, board.rows), board.square, board.marker, aruco_dictionary(board.dictionary)
    )
    opencv_board.setLegacyPattern(cv2_legacy)
    np.testing.assert_allclose(board.points, opencv_board.getChessboardCorners(), atol=1e-6)
    # The density makes squares and marker cells whole pixels.
    image = board.draw(density)
    expected = opencv_board.generateImage(image.shape[::-1], marginSize=0, borderBits=1)
    assert (np.abs(image.astype(int) - expected) > 64).mean() < 2e-3


def test_board_chessboard_counts_inner_corners_like_opencv():
    assert CHESSBOARD.corners == (9, 6) and CHESSBOARD.squares == (10, 7)
    assert len(CHESSBOARD.points) == 54
    np.testing.assert_allclose(CHESSBOARD.points[[0, 1, 9]], [[0.025, 0.025, 0], [0.05, 0.025, 0], [0.025, 0.05, 0]])
    assert cv2.findChessboardCornersSB(CHESSBOARD.draw(2000, 0.03), (9, 6))[0]


def test_draw_edge_within_pixel_is_antialiased():
    board = Board.of(kind="chessboard", columns=3, rows=3, square=0.01)
    image = board.draw(150)  # squares of 1.5 pixels
    assert image.shape == (6, 6)
    assert image[0].tolist() == [0, 128, 255, 0, 128, 255]


@pytest.mark.parametrize("board", [CHARUCO, CHESSBOARD, ODD], ids=["charuco", "chessboard", "odd"])
def test_detect_rendered_board_within_hundredths_of_a_pixel(board):
    errors = []
    for number, pose in enumerate(sample_poses(board, CAMERA, 12, seed=4)):
        image, _ = render(board, CAMERA, pose, blur=0.7, noise=2, seed=number)
        found = detect(board, image)
        assert found is not None and (np.diff(found.ids) > 0).all()
        errors.append(found.pixels - project_corners(board.points[found.ids], CAMERA, pose))
    all_errors = np.concatenate(errors)
    assert len(all_errors) > 0.6 * 12 * len(board.points)
    assert np.sqrt((all_errors**2).mean()) < 0.03  # measured: 0.015 to 0.02
    assert np.abs(all_errors.mean(axis=0)).max() < 0.005  # no offset by a fraction of a pixel


def test_render_without_noise_is_exact():
    """Without blur and noise, only the detector's own error remains."""
    for pose in sample_poses(CHESSBOARD, CAMERA, 4, seed=9):
        image, depth = render(CHESSBOARD, CAMERA, pose)
        found = detect(CHESSBOARD, image)
        error = found.pixels - project_corners(CHESSBOARD.points[found.ids], CAMERA, pose)
        assert np.sqrt((error**2).mean()) < 0.02
        u, v = np.round(found.pixels).astype(int).T
        expected = (CHESSBOARD.points[found.ids] @ pose[:3, :3].T + pose[:3, 3])[:, 2]
        # The nearest pixel's center is up to 0.7 px from the corner, which is some mm on a plane tilted by 45°.
        np.testing.assert_allclose(depth[v, u], expected, atol=0.005)
        assert np.isnan(depth[0, 0]) or np.isnan(depth[-1, -1])


def test_render_depth_lies_on_plane():
    pose = frontal_pose(CHARUCO)
    _, depth = render(CHARUCO, CAMERA, pose)
    v, u = np.nonzero(np.isfinite(depth))
    pixels = np.stack([u, v], axis=1).astype(np.float64).reshape(-1, 1, 2)
    rays = undistort(pixels, CAMERA, 100, 0.0).reshape(-1, 2)
    points = np.column_stack([rays, np.ones(len(rays))]) * depth[v, u, None]
    height = (points - pose[:3, 3]) @ pose[:3, 2]
    assert np.abs(height).max() < 1e-6


@pytest.mark.parametrize("roll_deg", [0, 90, 180, -90])
@pytest.mark.parametrize("board", [CHARUCO, CHESSBOARD], ids=["charuco", "chessboard"])
def test_detect_rotated_board_keeps_corner_ids(board, roll_deg):
    pose = frontal_pose(board, 0.7, roll_deg)
    image, _ = render(board, CAMERA, pose, blur=0.5)
    found = detect(board, image)
    assert np.abs(found.pixels - project_corners(board.points[found.ids], CAMERA, pose)).max() < 0.2


def test_detect_symmetric_chessboard_starts_at_left():
    pose = frontal_pose(ODD, 0.6, 180)
    image, _ = render(ODD, CAMERA, pose)
    assert ODD.ambiguous and not CHESSBOARD.ambiguous and not CHARUCO.ambiguous
    found = detect(ODD, image)
    expected = project_corners(ODD.points, CAMERA, pose)[::-1]
    assert np.abs(found.pixels - expected[found.ids]).max() < 0.2


def test_detect_partial_charuco_finds_visible_corners():
    pose = frontal_pose(CHARUCO, 0.3)
    pose[0, 3] += 0.12
    image, _ = render(CHARUCO, CAMERA, pose, blur=0.7, noise=2)
    found = detect(CHARUCO, image)
    assert 6 <= len(found) < 30
    assert np.abs(found.pixels - project_corners(CHARUCO.points[found.ids], CAMERA, pose)).max() < 0.15


@pytest.mark.parametrize("board", [CHARUCO, CHESSBOARD], ids=["charuco", "chessboard"])
def test_detect_without_board_returns_none(board):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert detect(board, np.zeros((480, 640, 3), np.uint8)) is None
    assert detect(board, np.full((480, 640), 255, np.uint8)) is None
    assert detect(board, noise) is None


@pytest.mark.parametrize("board", [CHARUCO, ODD], ids=["charuco", "odd chessboard"])
@pytest.mark.parametrize("roll_deg", [0, 170])
def test_detect_mirrored_image_is_refused(board, roll_deg):
    image, _ = render(board, CAMERA, frontal_pose(board, 0.5, roll_deg), blur=0.5)
    assert board.detects_mirroring and detect(board, image) is not None
    for mirrored in (image[:, ::-1], image[::-1]):
        with pytest.raises(InputError, match="mirrored"):
            detect(board, np.ascontiguousarray(mirrored))


def test_detect_mirrored_even_chessboard_is_accepted():
    assert not CHESSBOARD.detects_mirroring
    image, _ = render(CHESSBOARD, CAMERA, frontal_pose(CHESSBOARD))
    assert detect(CHESSBOARD, np.ascontiguousarray(image[:, ::-1])) is not None


def test_detect_charuco_old_opencv_is_refused(monkeypatch):
    monkeypatch.delattr(cv2.aruco, "CharucoDetector")  # as in OpenCV 4.6
    other = Board(columns=7, rows=6)  # detectors are cached
    with pytest.raises(MissingLibraryError, match=r"ChArUco boards need OpenCV 4.7.*pip install opencv-contrib-python"):
        detect(other, np.zeros((64, 64), np.uint8))


def test_detect_wrong_image_type_is_refused():
    with pytest.raises(InputError, match=r"float64\[4, 4\], expected uint8"):
        detect(CHARUCO, np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"marker": 0.03}, "do not fit squares"),
        ({"columns": 20, "rows": 20}, "needs 200 markers and 4x4_50 has 50"),
        ({"kind": "circles"}, "allowed: charuco, chessboard"),
        ({"square": -1.0}, "allowed: 0.001 to 2.0 m"),
    ],
)
def test_board_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Board.of(**options)


def read_pdf_page(path) -> tuple[tuple[float, float], np.ndarray]:
    """Return the size of a PDF's page in m, and its black rectangles [n, 4] (left, bottom, width, height) in m."""
    data = path.read_bytes()
    box = [float(word) for word in re.search(rb"/MediaBox \[([^\]]*)\]", data).group(1).split()]
    streams = [zlib.decompress(part) for part in re.findall(rb"stream\n(\x78.*?)\nendstream", data, re.DOTALL)]
    content = next(stream.decode("latin-1") for stream in streams if b" re f" in stream)
    rectangles = np.array(re.findall(r"([-\d.]+) ([-\d.]+) ([-\d.]+) ([-\d.]+) re f", content), float)
    rectangles[:, 1] += np.minimum(rectangles[:, 3], 0)
    rectangles[:, 3] = np.abs(rectangles[:, 3])
    meters_per_point = 0.0254 / 72
    return (box[2] * meters_per_point, box[3] * meters_per_point), rectangles * meters_per_point


def test_write_pdf_has_true_size(tmp_path):
    assert board.write(CHARUCO, tmp_path / "board.pdf") == "a4"
    (width, height), black = read_pdf_page(tmp_path / "board.pdf")
    np.testing.assert_allclose((width, height), (0.297, 0.210), atol=5e-6)
    expected = CHARUCO.rectangles + np.tile([(0.297 - 0.27) / 2, (0.21 - 0.18) / 2], 2)
    edges = np.stack(
        [black[:, 0], height - black[:, 1] - black[:, 3], black[:, 0] + black[:, 2], height - black[:, 1]], 1
    )
    np.testing.assert_allclose(edges, expected, atol=1e-5)  # 0.01 mm
    density = 3000
    image = np.full((round(height * density), round(width * density)), 255, np.uint8)
    left, bottom, widths, heights = (black * density).T
    bottom = height * density - bottom
    edges = np.floor(np.stack([bottom - heights, bottom, left, left + widths]) + 0.501).astype(int)
    for top, below, start, end in edges.T:
        image[top:below, start:end] = 0
    found = detect(CHARUCO, cv2.GaussianBlur(image, (0, 0), 1))
    assert found.ids.tolist() == list(range(40))
    left, top = (width - 0.27) / 2, (height - 0.18) / 2
    expected = (CHARUCO.points[:, :2] + (left, top)) * density - 0.5
    assert np.abs(found.pixels - expected).max() < 0.6  # 0.2 mm: the rectangles above are rounded to pixels


def test_write_pdf_has_valid_cross_references(tmp_path):
    board.write(CHESSBOARD, tmp_path / "board.pdf")
    data = (tmp_path / "board.pdf").read_bytes()
    start = int(data.split(b"startxref\n")[1].split()[0])
    assert data[start : start + 4] == b"xref"
    for number, offset in enumerate(re.findall(rb"(\d{10}) 00000 n", data), 1):
        assert data[int(offset) :].startswith(f"{number} 0 obj".encode())


def test_write_png_stores_resolution(tmp_path):
    board.write(CHARUCO, tmp_path / "board.png")
    data = (tmp_path / "board.png").read_bytes()
    per_m = struct.unpack(">I", data.split(b"pHYs")[1][:4])[0]
    image = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    assert image.shape[1] == pytest.approx((0.27 + 0.03) * per_m, abs=1)
    assert len(detect(CHARUCO, cv2.resize(image, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA))) == 40


def test_write_large_board_chooses_larger_paper(tmp_path):
    large = Board.of(square=0.045, marker=0.03)
    assert board.write(large, tmp_path / "large.pdf") == "a3"
    with pytest.raises(ConfigError, match=r"405×270 mm does not fit A4"):
        board.write(large, tmp_path / "large.pdf", "a4")
    with pytest.raises(ConfigError, match=r"4500×3000 mm is too large for a PNG of 600 dpi"):
        board.write(Board.of(square=0.5, marker=0.3), tmp_path / "large.png")
    with pytest.raises(ConfigError, match="neither .pdf nor .png"):
        board.write(large, tmp_path / "large.svg")


def test_write_pdf_names_a_bar_only_if_there_is_one(tmp_path):
    for options, has_bar in (({}, True), ({"columns": 6, "rows": 4, "square": 0.015, "marker": 0.011}, False)):
        board.write(Board.of(**options), tmp_path / "board.pdf")
        data = (tmp_path / "board.pdf").read_bytes()
        text = b"".join(map(zlib.decompress, re.findall(rb"stream\n(\x78.*?)\nendstream", data, re.DOTALL)))
        assert (b"this bar is 100 mm" in text) is has_bar
