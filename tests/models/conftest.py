"""What tests of datasets share."""

import shutil

import pytest


@pytest.fixture
def published(data_root, tmp_path):
    """Twelve sequences of N-UCLA as published, to be damaged."""
    folder = tmp_path / "published/nucla"
    folder.mkdir(parents=True)
    for path in sorted((data_root / "nucla/raw").glob("*.json"))[::4]:
        shutil.copy(path, folder)
    return folder
