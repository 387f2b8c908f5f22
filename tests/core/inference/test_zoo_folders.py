"""Package folders: unreadable ones, users without a home, and circular links."""

import os
import pwd
from pathlib import Path

import pytest

from actrec.inference import package, zoo
from actrec.inference.tensorrt.cache import EngineCache
from actrec.utils import folders
from actrec.utils.errors import DeviceError, PackageError
from tests.tiny_model import write_tiny


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Yield a folder of packages without read permission."""
    folder = tmp_path / "private"
    write_tiny(folder / "tiny")
    monkeypatch.setenv("ACTREC_MODELS", str(folder))
    folder.chmod(0)
    if os.geteuid() == 0:  # root can read every folder
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    else:
        yield folder
    folder.chmod(0o755)


def test_list_packages_unreadable_folder_skipped(unreadable: Path) -> None:
    assert "tiny" not in [entry.name for entry in zoo.list_packages()]
    with pytest.raises(PackageError, match="no model package 'tiny'; known: "):
        zoo.find("tiny")
    with pytest.raises(PackageError, match="Permission denied, so .*tiny is no model package"):
        package.load(unreadable / "tiny")


def test_find_without_home_finds_shipped_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_user(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "ACTREC_ENGINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    assert zoo.find("deepacts_graph_nucla").name == "deepacts_graph_nucla"
    with pytest.raises(DeviceError, match="there is no home folder: set ACTREC_ENGINES or XDG_CACHE_HOME, or HOME"):
        EngineCache()
    with pytest.raises(DeviceError, match="'~/mine': .* there is no such home folder"):
        EngineCache("~/mine")


@pytest.mark.parametrize("library", ["lib/python3.10/site-packages", "lib64/python3.12/dist-packages"])
def test_installed_finds_other_pip_prefixes(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages from `pip install --user`, `--prefix` and Debian's pip are found."""
    monkeypatch.setattr(folders, "__file__", str(tmp_path / library / "actrec/utils/folders.py"))
    assert tmp_path / "share/actrec/models/zoo" in zoo.folders()


def test_find_home_of_unknown_user_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTREC_MODELS", "~no_such_user/models")
    assert zoo.find("deepacts_graph_nucla").name == "deepacts_graph_nucla"
    with pytest.raises(PackageError, match="no_such_user/mine: no such model package folder"):
        zoo.find("~no_such_user/mine")


def test_find_circular_link_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(PackageError, match="circle: no such model package folder"):
        package.load(tmp_path / "circle")
