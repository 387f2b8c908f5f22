"""Intrinsics from points and pixels: simulated, and of the cameras in NTU RGB+D files."""

import numpy as np
import pytest

from actrec.datasets.ntu.cameras import fit_cameras
from actrec.datasets.ntu.skeletons import read_ntu_file
from actrec.types import Intrinsics
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_calibration.poses import calibrate_from_points, pose_difference, pose_from_vector, project, transform
from actrec_calibration.views import read_points

POSE = pose_from_vector(np.array([0.2, -0.3, 0.1, 0.3, -0.1, 0.4]))
CAMERA = Intrinsics(640, 480, 520, 515, 322, 236)


def _points_and_pixels(count=400, noise=0.0, pose=POSE):
    random = np.random.default_rng(0)
    points = random.uniform([-1, -0.8, 1.5], [1, 0.8, 4], (count, 3))
    return points, project(transform(pose, points), CAMERA) + random.normal(0, noise, (count, 2))


@pytest.fixture(scope="module")
def setup_1_files(data_root):
    """Return the files of setup 1, camera 1, which show one Kinect."""
    return sorted((data_root / "ntu/skeleton").glob("S001C001*.skeleton"))


def _numbers(camera):
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy])


def test_calibrate_ntu_depth_camera_matches_files(setup_1_files):
    """The 22 150 joints give f 366 and center (256, 208) in the file's mirrored pixels."""
    found = calibrate_from_points(*read_points(setup_1_files, "depth"), "fixed")
    fx, fy, cx, cy = _numbers(found.camera)
    assert len(setup_1_files) == 10 and found.used == found.given == 22150
    assert abs(fx - 366.2) < 0.2 and abs(fy - 366.4) < 0.2
    assert abs(511 - cx - 256.35) < 0.1 and abs(cy - 208.5) < 0.1
    assert found.rms < 0.06


def test_calibrate_ntu_color_camera_matches_files(setup_1_files):
    """With parallel cameras, the joints give f 1056 and center (956, 568) in the file's mirrored pixels."""
    found = calibrate_from_points(*read_points(setup_1_files, "color"), "shift")
    fx, fy, cx, cy = _numbers(found.camera)
    assert abs(fx - 1057) < 2 and abs(fy - 1056) < 1
    assert abs(1919 - cx - 955.5) < 1 and abs(cy - 567.5) < 1
    assert found.rms < 0.3


def test_calibrate_ntu_color_camera_with_rotation_fits_better(setup_1_files):
    """A free rotation of 0.2° reduces the error tenfold; the baseline is 53 mm (Kinect v2: 52)."""
    found = calibrate_from_points(*read_points(setup_1_files, "color"), "free")
    meters, degrees = pose_difference(found.pose, np.eye(4))
    assert found.rms < 0.03 and 0.050 < meters < 0.056 and 0.1 < degrees < 0.4
    assert np.abs(_numbers(found.camera)[:2] - 1056.4).max() < 1
    # A rotation shifts the center; these values are of the unmirrored image.
    assert np.abs(_numbers(found.camera)[2:] - [956.0, 569.0]).max() < 1


def test_fit_cameras_single_ntu_file_agrees(data_root):
    """`fit_cameras` finds nearly the same cameras from a single file."""
    for file in sorted((data_root / "ntu/skeleton").glob("S001C001*.skeleton")):
        cameras = fit_cameras(read_ntu_file(file))
        assert np.abs(_numbers(cameras.depth) - [366.1, 366.4, 511 - 256.35, 208.5]).max() < 0.5
        assert np.abs(_numbers(cameras.color) - [1056, 1056.4, 1919 - 956, 567.5]).max() < 3


def test_calibrate_exact_points_gives_exact_camera():
    points, pixels = _points_and_pixels()
    found = calibrate_from_points(points, pixels, (640, 480))
    np.testing.assert_allclose(_numbers(found.camera), _numbers(CAMERA), atol=1e-4)
    assert max(pose_difference(found.pose, POSE)) < 1e-5


def test_calibrate_noise_and_outliers_within_sigma():
    points, pixels = _points_and_pixels(noise=0.5)
    pixels[::40] += 30
    pixels[1] = np.nan
    found = calibrate_from_points(points, pixels, (640, 480))
    assert found.given == 399 and found.used <= 389
    assert (np.abs(_numbers(found.camera) - _numbers(CAMERA)) < 4 * found.sigma).all() and found.sigma.max() < 3


def test_calibrate_degenerate_points_are_refused():
    points, pixels = _points_and_pixels()
    with pytest.raises(InputError, match="11 points with pixels are too few"):
        calibrate_from_points(points[:11], pixels[:11], (640, 480))
    points[:, 2] = 2 + 0.3 * points[:, 0]
    with pytest.raises(InputError, match="lie on a plane, which leaves the focal length"):
        calibrate_from_points(points, project(transform(POSE, points), CAMERA), (640, 480))
    with pytest.raises(InputError, match="pose is 'none'"):
        calibrate_from_points(points, pixels, (640, 480), "none")


@pytest.mark.parametrize("pose", ["free", "shift"])
def test_calibrate_mirrored_pixels_are_recognized(pose):
    points, pixels = _points_and_pixels(pose=np.eye(4))
    pixels[:, 0] = 639 - pixels[:, 0]
    with pytest.raises(InputError, match="mirrored image"):
        calibrate_from_points(points, pixels, (640, 480), pose)


def test_read_points_damaged_csv_is_refused(tmp_path):
    points, pixels = _points_and_pixels(30)
    rows = [",".join(map(str, row)) for row in np.hstack([points, pixels])]
    file = tmp_path / "points.csv"
    file.write_text("\n".join(["x,y,z,u,v", *rows]))
    read, _, size = read_points([file], "color", (640, 480))
    np.testing.assert_allclose(read, points)
    assert size == (640, 480)
    with pytest.raises(ConfigError, match="--size W,H"):
        read_points([file], "color")
    file.write_text("\ufeffx,y,z,u,v\n1,2,3,4,5\n", encoding="utf-8")  # as Excel writes it
    np.testing.assert_array_equal(read_points([file], "color", (640, 480))[0], [[1, 2, 3]])
    file.write_text("x,y,z,u,v\n1,5,2,0,3,5,100,2,200,1\n")
    with pytest.raises(InputError, match="write decimals with a point"):
        read_points([file], "color", (640, 480))
    file.write_text("x,y,z\n1,2,3\n")
    with pytest.raises(InputError, match="no table of points"):
        read_points([file], "color", (640, 480))
    for lines in (1, 20_000):  # the second exceeds the field limit of Python's reader
        file.write_text('x,y,z,u,v\n1,"2,3,4,5\n' + "1,2,3,4,5\n" * lines)
        with pytest.raises(InputError, match="is no CSV: .* is a quotation mark left open"):
            read_points([file], "color", (640, 480))
    with pytest.raises(DeviceError, match="check the path"):
        read_points([tmp_path / "none.csv"], "color", (640, 480))
