"""What tests of datasets share."""

import shutil

import pytest

from actrec.datasets.archive import ArchiveSource


@pytest.fixture(scope="session", autouse=True)
def read_once():
    """An archive is read once for all tests of a worker, not by every command that they run."""
    whole, known = ArchiveSource._all, {}

    def all_of(source):
        path = source.root / source.archive
        if source._read is None:
            key = (type(source), path, path.stat().st_mtime_ns, path.stat().st_size)
            source._read = known[key] = known.get(key) or whole(source)
        return source._read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArchiveSource, "_all", all_of)
        yield


@pytest.fixture
def published(data_root, tmp_path):
    """Twelve sequences of N-UCLA as published, to be damaged."""
    folder = tmp_path / "published/nucla"
    folder.mkdir(parents=True)
    for path in sorted((data_root / "nucla/raw").glob("*.json"))[::4]:
        shutil.copy(path, folder)
    return folder
