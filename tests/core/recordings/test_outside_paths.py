"""Names inside of bags and archives that lead out of their folder: nothing is read there, and nothing written."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from actrec.recordings.rosbag.bag_files import recover
from actrec.recordings.skeleton_files import open_sequence
from actrec.skeleton.sequence import load_npz
from actrec.utils.errors import InputError
from tests.core.conftest import Bag
from tests.core.recordings.test_bag import COLOR, INFO, RGB, H, W, frames_of, stamps

OUTSIDE = (
    "../secret/secret.mcap",
    "{}/secret/secret.mcap",
    "walk/../../secret/secret.mcap",
    "..",
    "/",
    "../secret",
    "",
)


@pytest.fixture
def listed(tmp_path: Path):
    """Return a function that names a file in metadata.yaml of a bag beside the bag `secret`; it returns the folder."""
    for name, count in (("walk", 3), ("secret", 5)):
        with Bag(tmp_path / name) as bag:
            for stamp in stamps(count):
                bag.info(INFO, stamp, W, H)
                bag.image(COLOR, stamp, RGB, "rgb8")

    def write(name: str) -> Path:
        file = tmp_path / "walk/metadata.yaml"
        about = yaml.safe_load(file.read_text())
        about["rosbag2_bagfile_information"]["relative_file_paths"] = [name.format(tmp_path)]
        file.write_text(yaml.safe_dump(about))
        return tmp_path / "walk"

    return write


@pytest.mark.parametrize("name", OUTSIDE)
def test_bag_whose_metadata_names_a_file_outside_plays_its_own(listed, name: str, tmp_path: Path) -> None:
    folder = listed(name)
    assert [frame.stamp_ns for frame in frames_of(folder)] == stamps(3)
    assert recover(folder, tmp_path / "saved")[COLOR] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "secret", "walk"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_bag_without_files_of_its_own_is_refused_whatever_its_metadata_names(listed, name: str) -> None:
    folder = listed(name)
    next(folder.glob("*.mcap")).unlink()
    with pytest.raises(InputError, match=r"holds no \.mcap or \.db3 file"):
        frames_of(folder)


@pytest.mark.parametrize("name", ["../evil.npy", "../../evil.npy", "{}/evil.npy", "a/../../evil.npy"])
def test_archive_with_a_member_outside_writes_no_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "own/skeletons/a.npz"
    file.parent.mkdir(parents=True)
    body = np.ones((5, 25, 3)) * np.arange(1, 26)[:, None]
    np.savez(file, positions=body, layout="kinect_v2_25", fps=30.0)
    name, content = name.format(tmp_path), io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    array = name.removesuffix(".npy")
    np.testing.assert_array_equal(load_npz(file, (array,))[array], np.zeros(3))
    with pytest.raises(InputError, match=f"has an array {re.escape(array)}; rename or remove it"):
        open_sequence(file)
    assert sorted(tmp_path.rglob("*")) == before
