"""Small archives of the motion datasets."""

from pathlib import Path

import pytest

from tests.core.datasets.motion_files import CLIPS, FOLDERS, SOURCES, shorten


@pytest.fixture(scope="session")
def small(data_root, tmp_path_factory) -> Path:
    """The folder `motion` of a folder of datasets, with three clips of each, in folders of the datasets' names."""
    root = tmp_path_factory.mktemp("datasets") / "motion"
    for name, folder in FOLDERS.items():
        (root / name).mkdir(parents=True)
        archive = SOURCES[name].archive
        shorten(data_root / "motion" / folder / archive, root / name / archive, CLIPS[name])
    (root / FOLDERS["hdm05"]).symlink_to(root / "hdm05")
    return root
