"""Intrinsics from rendered boards with a known lens: accuracy, outliers and guidance."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from actrec.types import Intrinsics
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_calibration import intrinsics, quality
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, BoardView, detect, placement, select_views
from actrec_calibration.intrinsics import RATIONAL, IntrinsicsConfig, calibrate, coefficients, displacement
from actrec_calibration.quality import CheckConfig, check, coverage, write_report
from benchmarks import calibration
from benchmarks.calibration import rendered_views
from tests.reference.board_rendering import project_corners, render, sample_poses

VGA = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1, (0.08, -0.15, 0.001, -0.0015, 0.03))
HD = Intrinsics(1280, 720, 905.0, 907.0, 645.2, 352.4, (0.12, -0.25, -0.0007, 0.0009, 0.1))
CHARUCO = Board.of()
CHESSBOARD = Board.of(kind="chessboard", square=0.025)


def projected_views(
    camera: Intrinsics, count: int, seed: int = 0, noise: float = 0.05, board: Board = CHARUCO
) -> list[BoardView]:
    """Return views with projected corners and Gaussian noise in pixels; no image is rendered."""
    random = np.random.default_rng(seed)
    views = []
    for number, pose in enumerate(sample_poses(CHARUCO, camera, count, seed)):
        pixels = project_corners(CHARUCO.points, camera, pose)
        visible = np.all((pixels > 8) & (pixels < np.array([camera.width, camera.height]) - 9), axis=1)
        pixels = pixels[visible] + random.normal(0, noise, (visible.sum(), 2))
        views.append(
            BoardView(f"view_{number}", (camera.width, camera.height), BoardCorners(np.flatnonzero(visible), pixels))
        )
    return views


def assert_close(camera: Intrinsics, expected: Intrinsics) -> None:
    assert camera.fx == pytest.approx(expected.fx, rel=0.003)
    assert camera.fy == pytest.approx(expected.fy, rel=0.003)
    assert camera.cx == pytest.approx(expected.cx, abs=1.0)
    assert camera.cy == pytest.approx(expected.cy, abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("board", "camera"), [(CHARUCO, VGA), (CHESSBOARD, HD)], ids=["charuco", "chessboard"])
def test_calibrate_rendered_boards_is_accurate(board, camera):
    """The images have blur of 0.8 px and noise of 3 gray levels; some ChArUco boards are partly outside."""
    views = rendered_views(board, camera, 12, seed=2)
    found = calibrate(board, views)
    assert_close(found.camera, camera)
    assert found.rejected == {}
    assert found.rms < 0.05 and found.held_out_rms < 1.2 * found.rms
    if board is CHARUCO:
        assert min(len(view.detection) for view in views) < 40
    _, shift, _ = displacement(camera, found.camera, found.covariance)
    assert np.hypot(*shift.T).max() < 1.0  # over the whole image, with its corners


def test_calibrate_strong_blur_and_noise_is_accurate():
    views = []
    for number, pose in enumerate(sample_poses(CHARUCO, VGA, 20, seed=6)):
        image, _ = render(CHARUCO, VGA, pose, blur=1.6, noise=8, seed=number)
        found = detect(CHARUCO, image)
        if found is not None:
            views.append(BoardView(str(number), (640, 480), found))
    assert len(views) >= 10
    assert_close(calibrate(CHARUCO, views).camera, VGA)


def test_calibrate_deviations_match_repetitions():
    camera, errors, deviations = VGA, [], []
    for seed in range(12):
        # The poses stay the same, the noise differs.
        random = np.random.default_rng(100 + seed)
        noisy_views = [
            BoardView(
                v.name,
                v.size,
                BoardCorners(v.detection.ids, v.detection.pixels + random.normal(0, 0.1, (len(v.detection), 2))),
            )
            for v in projected_views(camera, 12, seed=3, noise=0.0)
        ]
        found = calibrate(CHARUCO, noisy_views)
        errors.append(coefficients(found.camera) - coefficients(camera))
        deviations.append(found.deviations)
    spread, reported = np.std(errors, axis=0), np.mean(deviations, axis=0)
    # Twelve samples estimate a deviation to about 21 %.
    assert np.all(spread[:4] < 1.6 * reported[:4]) and np.all(spread[:4] > 0.5 * reported[:4])


def test_calibrate_deviations_equal_opencv():
    """OpenCV inverts the whole normal matrix, `calibrate` uses its Schur complement."""
    views = projected_views(VGA, 14, seed=3)
    found = calibrate(CHARUCO, views)
    points = [CHARUCO.points[view.detection.ids].astype(np.float32) for view in found.views]
    pixels = [view.detection.pixels.astype(np.float32) for view in found.views]
    deviations = cv2.calibrateCameraExtended(points, pixels, (640, 480), None, None)[5].ravel()[:9]
    np.testing.assert_allclose(found.deviations, deviations, rtol=0.02)


def test_calibrate_rational_model_fits_wide_lens():
    wide = Intrinsics(640, 480, 320.0, 321.0, 318.0, 241.0, (0.4, 0.1, 0.0005, -0.0004, 0.01, 0.75, 0.15, 0.02))
    found = calibrate(CHARUCO, projected_views(wide, 16), IntrinsicsConfig(model=RATIONAL))
    assert len(found.camera.distortion) == 8
    assert_close(found.camera, wide)
    _, shift, _ = displacement(wide, found.camera, found.covariance)
    assert np.median(np.hypot(*shift.T)) < 0.2


def bend_board(view: BoardView) -> BoardView:
    """Return the view of a bent board, whose center corners move by 3 px."""
    points = CHARUCO.points[view.detection.ids] / [*CHARUCO.size, 1]
    out = 3.0 * np.sin(np.pi * points[:, :1]) * np.array([[1.0, -0.6]])
    return dataclasses.replace(view, detection=BoardCorners(view.detection.ids, view.detection.pixels + out))


def shift_row_ids(view: BoardView) -> BoardView:
    """Return the view with the ids of some rows shifted by one row."""
    ids = view.detection.ids
    first_rows = ids < 24
    shifted = np.where(first_rows, ids + 8, ids)
    keep = ~np.isin(shifted, shifted[~first_rows]) | ~first_rows
    return dataclasses.replace(view, detection=BoardCorners(shifted[keep], view.detection.pixels[keep]))


@pytest.mark.parametrize("corrupt", [bend_board, shift_row_ids])
def test_calibrate_wrong_view_is_rejected(corrupt):
    views = projected_views(VGA, 20, seed=8)
    full = max(range(20), key=lambda number: len(views[number].detection))
    views[full] = corrupt(views[full])
    found = calibrate(CHARUCO, views)
    assert list(found.rejected) == [f"view_{full}"]
    assert "px off" in found.rejected[f"view_{full}"]
    assert_close(found.camera, VGA)


def test_calibrate_wrong_corner_is_rejected_alone():
    views = projected_views(VGA, 20, seed=8)
    for number in (3, 7, 11):
        views[number].detection.pixels[2] += (0.8, -0.6)
    found = calibrate(CHARUCO, views)
    assert found.rejected == {} and 3 <= found.corners_rejected <= 6
    assert_close(found.camera, VGA)


def test_calibrate_mostly_wrong_views_are_refused():
    random = np.random.default_rng(0)
    views = projected_views(VGA, 14, seed=8)
    for view in views[::2]:
        view.detection.pixels[:] += random.normal(0, random.uniform(3, 30), view.detection.pixels.shape)
    with pytest.raises(InputError, match="contradict one another.*: check that the board is flat"):
        calibrate(CHARUCO, views)


def test_calibrate_unmoved_views_count_once():
    views = projected_views(VGA, 12, seed=5)
    repeated = [dataclasses.replace(view, name=f"{view.name}_again") for view in views for _ in range(10)]
    found = calibrate(CHARUCO, views + repeated)
    assert len(found.views) <= 12 and found.unmoved >= 120
    with pytest.raises(InputError, match=r"1 views of the board are too few \(50 with the board, which had moved"):
        calibrate(CHARUCO, [views[0]] * 50)


def test_select_views_keeps_the_most_different():
    views = projected_views(VGA, 300, seed=1)
    selected = select_views(CHARUCO, views, 30)
    assert len(selected) == 30
    all_coverage, selected_coverage = coverage(CHARUCO, views), coverage(CHARUCO, selected)
    assert all_coverage.missing == selected_coverage.missing == []


def test_calibrate_few_views_or_mixed_sizes_are_refused():
    with pytest.raises(InputError, match="in none of the images"):
        calibrate(CHARUCO, [])
    with pytest.raises(InputError, match="5 views of the board are too few: 8"):
        calibrate(CHARUCO, projected_views(VGA, 5))
    with pytest.raises(InputError, match=r"differ in size \(view_4 is 640×480, view_5 is 1280×720\)"):
        calibrate(CHARUCO, projected_views(VGA, 5) + projected_views(HD, 6)[5:])


def test_placement_estimates_tilt_and_scale():
    for tilt in ((25.0, 0.0), (-25.0, 0.0), (0.0, 30.0), (0.0, -30.0)):
        right, lower = np.radians(tilt)
        # A rotation about -y moves the right edge away, one about x the lower edge.
        rotation = cv2.Rodrigues(np.array([lower, -right, 0.0]))[0]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, np.array([0.0, 0.0, 0.5]) - rotation @ np.array([*CHARUCO.size, 0]) / 2
        view = BoardView("", (640, 480), BoardCorners(np.arange(40), project_corners(CHARUCO.points, VGA, pose)))
        estimated = placement(CHARUCO, view, VGA)
        np.testing.assert_allclose(estimated.tilt_deg, tilt, atol=0.1)
        assert estimated.scale == pytest.approx(525 * 0.27 / 0.5 / 640, rel=1e-3)
        without_camera = placement(CHARUCO, view)  # with unknown intrinsics
        np.testing.assert_allclose(without_camera.tilt_deg, tilt, atol=5)


def test_coverage_missing_lists_instructions():
    assert coverage(CHARUCO, []).complete == 0.0
    all_views = projected_views(VGA, 60, seed=2)
    assert coverage(CHARUCO, all_views).missing == []
    assert coverage(CHARUCO, all_views).complete == 1.0
    left_views = [view for view in all_views if view.detection.pixels[:, 0].max() < 400]
    instruction = coverage(CHARUCO, left_views).missing[0]
    assert "top right" in instruction and "bottom right" in instruction and "top left" not in instruction
    instructions = coverage(CHARUCO, [all_views[0]] * 30).missing
    assert any("tilt it by 15 to 45°" in line for line in instructions)
    flat_views = [view for view in all_views if placement(CHARUCO, view, VGA).tilt_deg[0] < 10]
    instruction = next(line for line in coverage(CHARUCO, flat_views, camera=VGA).missing if "tilt" in line)
    assert "right edge away from the camera" in instruction and "lower edge" not in instruction


def test_check_unchanged_lens_holds():
    result = check(CHARUCO, projected_views(VGA, 8, seed=12), VGA)
    assert result.holds and result.moved_px < result.tolerance_px
    assert result.stored_rms_px == pytest.approx(result.refitted_rms_px, rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"fx": 525 * 1.01, "fy": 523 * 1.01},
        {"cx": 322.3 + 5},
        {"cy": 237.1 - 5},
        {"distortion": (0.12, -0.15, 0, 0, 0)},
    ],
    ids=["focal length by 1 %", "center by 5 px right", "center by 5 px up", "distortion"],
)
def test_check_changed_lens_does_not_hold(change):
    result = check(CHARUCO, projected_views(VGA, 8, seed=12), dataclasses.replace(VGA, **change))
    assert not result.holds
    assert result.moved_px > result.tolerance_px and result.stored_rms_px > result.refitted_rms_px


def test_check_other_size_is_scaled():
    stored = VGA.resized(1280, 960)
    assert check(CHARUCO, projected_views(VGA, 8, seed=12), stored).holds
    with pytest.raises(InputError, match="of another aspect"):
        check(CHARUCO, projected_views(HD, 8), VGA)


def test_check_few_or_similar_views_are_refused():
    flat_views = [
        view
        for view in projected_views(VGA, 60, seed=12, noise=0.5)
        if np.hypot(*placement(CHARUCO, view, VGA).tilt_deg) < 12
    ]
    with pytest.raises(InputError, match="cannot decide.*tilted by up to 45°"):
        check(CHARUCO, flat_views[:5], VGA)
    with pytest.raises(InputError, match="3 views of the board are too few: 4"):
        check(CHARUCO, projected_views(VGA, 3), VGA, CheckConfig())


def test_write_report_has_figures_and_images(tmp_path):
    views = projected_views(VGA, 12, seed=5)
    views[4] = bend_board(views[4])
    found = calibrate(CHARUCO, views)
    gray = np.full((480, 640, 3), 128, np.uint8)
    write_report(tmp_path / "report", CHARUCO, found, coverage(CHARUCO, found.views), lambda name: gray)
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["intrinsics"]["fx"] == pytest.approx(525, rel=0.003)
    assert report["standard_deviations"]["fx"] > 0 and set(report["rejected"]) == {"view_4"}
    text = (tmp_path / "report/report.md").read_text()
    assert "| fx | 52" in text and "view_4" in text and "coverage.png" in text
    names = sorted(path.name for path in (tmp_path / "report/views").iterdir())
    assert names == sorted(f"{view.name}.jpg" for view in found.views)
    image = cv2.imread(str(tmp_path / "report/views" / names[0]))
    assert image.shape == (480, 640, 3) and image.std() > 5  # corners and residuals are drawn
    assert cv2.imread(str(tmp_path / "report/coverage.png")).shape == (480, 640, 3)


def test_benchmark_rendered_boards_is_accurate(monkeypatch):
    monkeypatch.setattr(calibration, "CAMERAS", (VGA,))
    (charuco, chessboard) = calibration.measure(["--seeds", "1", "--views", "9"])["rendered"]
    assert (charuco["board"], chessboard["board"], charuco["image"]) == ("charuco", "chessboard", "640x480")
    assert all(row["focal % worst"] < 0.3 and row["center px worst"] < 1 for row in (charuco, chessboard))


def test_benchmark_photographs_compares_with_opencv(tmp_path, monkeypatch):
    """Rendered images replace the photographs; both rows evaluate the same files."""
    monkeypatch.setattr(calibration, "BOARDS", ())
    board = Board.of(kind="chessboard", square=0.025)
    for number, pose in enumerate(sample_poses(board, VGA, 9, seed=3), 1):
        image, _ = render(board, VGA, pose, blur=0.7, noise=2, seed=number)
        assert cv2.imwrite(str(tmp_path / f"left{number:02d}.jpg"), image)
    actrec_row, opencv_row = calibration.measure(["--photographs", str(tmp_path)])["photographs"]
    assert actrec_row["camera"] == opencv_row["camera"] == "left" and actrec_row["views"] == 9
    assert actrec_row["fx"] == pytest.approx(525, rel=0.003) and actrec_row["RMS px"] < opencv_row["RMS px"]
    with pytest.raises(DeviceError, match="contains no images|is no folder"):
        calibration.measure(["--photographs", str(tmp_path / "none")])


def test_calibrate_few_views_names_the_cause():
    with pytest.raises(ConfigError, match="--most-views 6 is fewer than --fewest-views 8"):
        calibrate(CHARUCO, projected_views(VGA, 12), IntrinsicsConfig(most_views=6))
    with pytest.raises(InputError, match=r"7 views are left.* 2 are rejected, first view_1 \(5 of its 12 corners"):
        intrinsics._check_count(7, 9, IntrinsicsConfig(), {"view_1": "5 of its 12 corners are off", "view_2": "x"})


def test_check_unclear_displacement_names_the_accuracy_that_decides(monkeypatch):
    def moved(first, second, covariance):
        pixels, shift, sigma = displacement(first, second, covariance)
        return pixels, np.full_like(shift, 1.5), np.full_like(sigma, 0.9)

    monkeypatch.setattr(quality, "displacement", moved)
    with pytest.raises(InputError, match="to ±0.9 px, and 0.7 px are needed"):
        check(CHARUCO, projected_views(VGA, 8, seed=12), VGA)
