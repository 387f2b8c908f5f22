"""Intrinsics from rendered boards with a known lens: accuracy, outliers and guidance."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from actrec.types import Intrinsics
from actrec.utils.errors import DeviceError, InputError
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


def exact_views(
    camera: Intrinsics, count: int, seed: int = 0, noise: float = 0.05, board: Board = CHARUCO
) -> list[BoardView]:
    """Views whose corners are project instead of seen: quick, with noise of so many pixels."""
    draw = np.random.default_rng(seed)
    found = []
    for number, pose in enumerate(sample_poses(CHARUCO, camera, count, seed)):
        pixels = project_corners(CHARUCO.points, camera, pose)
        inside = np.all((pixels > 8) & (pixels < np.array([camera.width, camera.height]) - 9), axis=1)
        pixels = pixels[inside] + draw.normal(0, noise, (inside.sum(), 2))
        found.append(
            BoardView(f"view_{number}", (camera.width, camera.height), BoardCorners(np.flatnonzero(inside), pixels))
        )
    return found


def assert_right(found: Intrinsics, truth: Intrinsics) -> None:
    assert found.fx == pytest.approx(truth.fx, rel=0.003)
    assert found.fy == pytest.approx(truth.fy, rel=0.003)
    assert found.cx == pytest.approx(truth.cx, abs=1.0)
    assert found.cy == pytest.approx(truth.cy, abs=1.0)


@pytest.mark.parametrize(("board", "camera"), [(CHARUCO, VGA), (CHESSBOARD, HD)], ids=["charuco", "chessboard"])
def test_calibrate_rendered_boards_is_accurate(board, camera):
    """Blurred by 0.8 px, noise of 3 gray levels; ChArUco boards leave the image in part."""
    seen = rendered_views(board, camera, 12, seed=2)
    found = calibrate(board, seen)
    assert_right(found.camera, camera)
    assert found.rejected == {}
    assert found.rms < 0.05 and found.held_out_rms < 1.2 * found.rms
    if board is CHARUCO:
        assert min(len(view.detection) for view in seen) < 40
    moved = displacement(camera, found.camera, found.covariance)
    assert np.hypot(*moved.shift.T).max() < 1.0  # all over the image, its corners included


def test_calibrate_strong_blur_and_noise_is_accurate():
    seen = []
    for number, pose in enumerate(sample_poses(CHARUCO, VGA, 20, seed=6)):
        image, _ = render(CHARUCO, VGA, pose, blur=1.6, noise=8, seed=number)
        found = detect(CHARUCO, image)
        if found is not None:
            seen.append(BoardView(str(number), (640, 480), found))
    assert len(seen) >= 10
    assert_right(calibrate(CHARUCO, seen).camera, VGA)


def test_calibrate_deviations_match_repetitions():
    camera, errors, deviations = VGA, [], []
    for seed in range(12):
        # The same poses each time, other noise.
        draw = np.random.default_rng(100 + seed)
        noisy = [
            BoardView(
                v.name,
                v.size,
                BoardCorners(v.detection.ids, v.detection.pixels + draw.normal(0, 0.1, (len(v.detection), 2))),
            )
            for v in exact_views(camera, 12, seed=3, noise=0.0)
        ]
        found = calibrate(CHARUCO, noisy)
        errors.append(coefficients(found.camera) - coefficients(camera))
        deviations.append(found.deviations)
    spread, said = np.std(errors, axis=0), np.mean(deviations, axis=0)
    # Twelve samples tell a deviation to about 21 %.
    assert np.all(spread[:4] < 1.6 * said[:4]) and np.all(spread[:4] > 0.5 * said[:4])


def test_calibrate_deviations_equal_opencv():
    """OpenCV's come from the whole normal matrix, ours from its Schur complement."""
    seen = exact_views(VGA, 14, seed=3)
    found = calibrate(CHARUCO, seen)
    points = [CHARUCO.points[view.detection.ids].astype(np.float32) for view in found.views]
    pixels = [view.detection.pixels.astype(np.float32) for view in found.views]
    deviations = cv2.calibrateCameraExtended(points, pixels, (640, 480), None, None)[5].ravel()[:9]
    np.testing.assert_allclose(found.deviations, deviations, rtol=0.02)


def test_calibrate_rational_model_fits_wide_lens():
    wide = Intrinsics(640, 480, 320.0, 321.0, 318.0, 241.0, (0.4, 0.1, 0.0005, -0.0004, 0.01, 0.75, 0.15, 0.02))
    found = calibrate(CHARUCO, exact_views(wide, 16), IntrinsicsConfig(model=RATIONAL))
    assert len(found.camera.distortion) == 8
    assert_right(found.camera, wide)
    moved = displacement(wide, found.camera, found.covariance)
    assert np.median(np.hypot(*moved.shift.T)) < 0.2


def bent(view: BoardView) -> BoardView:
    """A board that is no plane: its middle stands out, as far as it moves corners by 3 px."""
    points = CHARUCO.points[view.detection.ids] / [*CHARUCO.size, 1]
    out = 3.0 * np.sin(np.pi * points[:, :1]) * np.array([[1.0, -0.6]])
    return dataclasses.replace(view, detection=BoardCorners(view.detection.ids, view.detection.pixels + out))


def misnamed(view: BoardView) -> BoardView:
    """A row of corners taken for the next."""
    ids = view.detection.ids
    wrong = ids < 24
    shifted = np.where(wrong, ids + 8, ids)
    keep = ~np.isin(shifted, shifted[~wrong]) | ~wrong
    return dataclasses.replace(view, detection=BoardCorners(shifted[keep], view.detection.pixels[keep]))


@pytest.mark.parametrize("spoil", [bent, misnamed])
def test_calibrate_wrong_view_is_rejected(spoil):
    seen = exact_views(VGA, 20, seed=8)
    full = max(range(20), key=lambda number: len(seen[number].detection))
    seen[full] = spoil(seen[full])
    found = calibrate(CHARUCO, seen)
    assert list(found.rejected) == [f"view_{full}"]
    assert "px off" in found.rejected[f"view_{full}"]
    assert_right(found.camera, VGA)


def test_calibrate_wrong_corner_is_rejected_alone():
    seen = exact_views(VGA, 20, seed=8)
    for number in (3, 7, 11):
        seen[number].detection.pixels[2] += (0.8, -0.6)
    found = calibrate(CHARUCO, seen)
    assert found.rejected == {} and 3 <= found.corners_rejected <= 6
    assert_right(found.camera, VGA)


def test_calibrate_mostly_wrong_views_are_refused():
    draw = np.random.default_rng(0)
    seen = exact_views(VGA, 14, seed=8)
    for view in seen[::2]:
        view.detection.pixels[:] += draw.normal(0, draw.uniform(3, 30), view.detection.pixels.shape)
    with pytest.raises(InputError, match="contradict one another.*: check that the board is flat"):
        calibrate(CHARUCO, seen)


def test_calibrate_unmoved_views_count_once():
    seen = exact_views(VGA, 12, seed=5)
    again = [dataclasses.replace(view, name=f"{view.name}_again") for view in seen for _ in range(10)]
    found = calibrate(CHARUCO, seen + again)
    assert len(found.views) <= 12 and found.unmoved >= 120
    with pytest.raises(InputError, match=r"1 views of the board are too few \(50 with the board, which had moved"):
        calibrate(CHARUCO, [seen[0]] * 50)


def test_select_views_keeps_the_most_different():
    seen = exact_views(VGA, 300, seed=1)
    kept = select_views(CHARUCO, seen, 30)
    assert len(kept) == 30
    every, few = coverage(CHARUCO, seen), coverage(CHARUCO, kept)
    assert every.missing == few.missing == []


def test_calibrate_few_views_or_mixed_sizes_are_refused():
    with pytest.raises(InputError, match="in none of the images"):
        calibrate(CHARUCO, [])
    with pytest.raises(InputError, match="5 views of the board are too few: 8"):
        calibrate(CHARUCO, exact_views(VGA, 5))
    with pytest.raises(InputError, match=r"differ in size \(view_4 is 640×480, view_5 is 1280×720\)"):
        calibrate(CHARUCO, exact_views(VGA, 5) + exact_views(HD, 6)[5:])


def test_placement_estimates_tilt_and_scale():
    for tilt in ((25.0, 0.0), (-25.0, 0.0), (0.0, 30.0), (0.0, -30.0)):
        right, lower = np.radians(tilt)
        # Its right edge goes away by a turn about -y, its lower edge by one about x.
        turn = cv2.Rodrigues(np.array([lower, -right, 0.0]))[0]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, np.array([0.0, 0.0, 0.5]) - turn @ np.array([*CHARUCO.size, 0]) / 2
        view = BoardView("", (640, 480), BoardCorners(np.arange(40), project_corners(CHARUCO.points, VGA, pose)))
        held = placement(CHARUCO, view, VGA)
        np.testing.assert_allclose(held.tilt_deg, tilt, atol=0.1)
        assert held.scale == pytest.approx(525 * 0.27 / 0.5 / 640, rel=1e-3)
        rough = placement(CHARUCO, view)  # with no lens known
        np.testing.assert_allclose(rough.tilt_deg, tilt, atol=5)


def test_coverage_missing_lists_instructions():
    assert coverage(CHARUCO, []).complete == 0.0
    everywhere = exact_views(VGA, 60, seed=2)
    assert coverage(CHARUCO, everywhere).missing == []
    assert coverage(CHARUCO, everywhere).complete == 1.0
    left = [view for view in everywhere if view.detection.pixels[:, 0].max() < 400]
    todo = coverage(CHARUCO, left).missing[0]
    assert "top right" in todo and "bottom right" in todo and "top left" not in todo
    one = coverage(CHARUCO, [everywhere[0]] * 30).missing
    assert any("tilt it by 15 to 45°" in line for line in one)
    flat = [view for view in everywhere if placement(CHARUCO, view, VGA).tilt_deg[0] < 10]
    said = next(line for line in coverage(CHARUCO, flat, camera=VGA).missing if "tilt" in line)
    assert "right edge away from the camera" in said and "lower edge" not in said


def test_check_unchanged_lens_holds():
    answer = check(CHARUCO, exact_views(VGA, 8, seed=12), VGA)
    assert answer.holds and answer.moved_px < answer.tolerance_px
    assert answer.stored_rms == pytest.approx(answer.refitted_rms, rel=0.1)


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
    answer = check(CHARUCO, exact_views(VGA, 8, seed=12), dataclasses.replace(VGA, **change))
    assert not answer.holds
    assert answer.moved_px > answer.tolerance_px and answer.stored_rms > answer.refitted_rms


def test_check_other_size_is_scaled():
    stored = VGA.resized(1280, 960)
    assert check(CHARUCO, exact_views(VGA, 8, seed=12), stored).holds
    with pytest.raises(InputError, match="of another aspect"):
        check(CHARUCO, exact_views(HD, 8), VGA)


def test_check_few_or_similar_views_are_refused():
    flat = [
        view
        for view in exact_views(VGA, 60, seed=12, noise=0.5)
        if np.hypot(*placement(CHARUCO, view, VGA).tilt_deg) < 12
    ]
    with pytest.raises(InputError, match="cannot decide.*tilted by up to 45°"):
        check(CHARUCO, flat[:5], VGA)
    with pytest.raises(InputError, match="3 views of the board are too few: 4"):
        check(CHARUCO, exact_views(VGA, 3), VGA, CheckConfig())


def test_write_report_has_figures_and_images(tmp_path):
    seen = exact_views(VGA, 12, seed=5)
    seen[4] = bent(seen[4])
    found = calibrate(CHARUCO, seen)
    gray = np.full((480, 640, 3), 128, np.uint8)
    write_report(tmp_path / "report", CHARUCO, found, coverage(CHARUCO, found.views), lambda name: gray)
    said = json.loads((tmp_path / "report/report.json").read_text())
    assert said["intrinsics"]["fx"] == pytest.approx(525, rel=0.003)
    assert said["standard_deviations"]["fx"] > 0 and set(said["rejected"]) == {"view_4"}
    text = (tmp_path / "report/report.md").read_text()
    assert "| fx | 52" in text and "view_4" in text and "coverage.png" in text
    drawn = sorted(path.name for path in (tmp_path / "report/views").iterdir())
    assert drawn == sorted(f"{view.name}.jpg" for view in found.views)
    image = cv2.imread(str(tmp_path / "report/views" / drawn[0]))
    assert image.shape == (480, 640, 3) and image.std() > 5  # corners and residuals are drawn
    assert cv2.imread(str(tmp_path / "report/coverage.png")).shape == (480, 640, 3)


def test_benchmark_rendered_boards_is_accurate(monkeypatch):
    monkeypatch.setattr(calibration, "CAMERAS", (VGA,))
    (charuco, chessboard) = calibration.measure(["--seeds", "1", "--views", "9"])["rendered"]
    assert (charuco["board"], chessboard["board"], charuco["image"]) == ("charuco", "chessboard", "640x480")
    assert all(row["focal % worst"] < 0.3 and row["center px worst"] < 1 for row in (charuco, chessboard))


def test_benchmark_photographs_compares_with_opencv(tmp_path, monkeypatch):
    """Rendered here, as the real ones are in no package of ours: both rows are of the same files."""
    monkeypatch.setattr(calibration, "BOARDS", ())
    board = Board.of(kind="chessboard", square=0.025)
    for number, pose in enumerate(sample_poses(board, VGA, 9, seed=3), 1):
        image, _ = render(board, VGA, pose, blur=0.7, noise=2, seed=number)
        assert cv2.imwrite(str(tmp_path / f"left{number:02d}.jpg"), image)
    ours, theirs = calibration.measure(["--photographs", str(tmp_path)])["photographs"]
    assert ours["camera"] == theirs["camera"] == "left" and ours["views"] == 9
    assert ours["fx"] == pytest.approx(525, rel=0.003) and ours["RMS px"] < theirs["RMS px"]
    with pytest.raises(DeviceError, match="contains no images|is no folder"):
        calibration.measure(["--photographs", str(tmp_path / "none")])
