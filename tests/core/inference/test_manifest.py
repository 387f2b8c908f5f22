"""The manifest of published packages: fetching from folders and URLs, and sources that are wrong."""

import hashlib
import shutil
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from actrec import cli
from actrec.inference import manifest, package, zoo
from actrec.utils.errors import ConfigError, DeviceError, PackageError
from tests.tiny_model import write_tiny


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of published packages: one, `tiny`; the user's data folder is empty."""
    folder = tmp_path / "my zoo"
    write_tiny(folder / "tiny")
    listed = manifest.describe(folder / "tiny")
    monkeypatch.setattr(manifest, "read", lambda: {"tiny": listed})
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("ACTREC_MODELS", raising=False)
    return folder


@pytest.fixture
def url(source: Path):
    """Yield the URL of a web server on this machine with that folder's parent."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(source.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/my%20zoo"
        server.shutdown()
        thread.join()


def test_fetch_from_url_installs_package(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "tiny"]) == 1
    assert "is not installed: actrec models --fetch tiny --from SOURCE, or add the folder" in capsys.readouterr().err
    assert cli.main(["models", "--fetch", "all", "--from", url]) == 0
    assert "license: " in capsys.readouterr().out
    assert zoo.find("tiny").path == zoo.own_folder() / "tiny"
    assert cli.main(["models", "--fetch", "tiny", "--from", "/nowhere"]) == 0, "it is there already"


def test_fetch_obeys_the_proxy(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host exists behind the proxy alone."""
    asked: list[str] = []

    class Proxy(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.path = self.path.removeprefix("http://zoo.behind-the-proxy")
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Proxy, directory=str(source.parent))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(urllib.request, "_opener", None)  # made with the variables at its first use
        try:
            found = manifest.fetch("tiny", "http://zoo.behind-the-proxy/my%20zoo", zoo.own_folder(), lambda _: None)
        finally:
            server.shutdown()
            thread.join()
    assert found.name == "tiny" and asked and all(path.startswith("http://zoo.behind-the-proxy/") for path in asked)


def test_fetch_from_folder_installs_package(source: Path) -> None:
    read: list[int] = []
    assert manifest.fetch("tiny", str(source), zoo.own_folder(), read.append).name == "tiny"
    assert sum(read) == manifest.read()["tiny"].size


@pytest.mark.parametrize("change", ["longer", "other", "absent"])
def test_fetch_other_file_leaves_nothing(source: Path, change: str) -> None:
    file = source / "tiny/model.onnx"
    content = {"longer": file.read_bytes() + bytes(10), "other": bytes(file.stat().st_size)}
    file.unlink() if change == "absent" else file.write_bytes(content[change])
    with pytest.raises(DeviceError if change == "absent" else PackageError, match=r"model\.onnx' .*name (the|another)"):
        manifest.fetch("tiny", str(source), zoo.own_folder())
    assert not (zoo.own_folder() / "tiny").exists()


def test_fetch_wrong_use_refused(source: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    with pytest.raises(ConfigError, match="no published model package 'other'; known: tiny"):
        manifest.fetch("other", str(source), zoo.own_folder())
    with pytest.raises(ConfigError, match="no URL of http, https, file"):
        manifest.fetch("tiny", "ftp://example.org/zoo", zoo.own_folder())
    with pytest.raises(DeviceError, match=r"found\): name the folder or URL"):
        manifest.fetch("tiny", f"{url}/elsewhere", zoo.own_folder())
    assert cli.main(["models", "--fetch", "tiny"]) == 2
    assert "give --from SOURCE, or set ACTREC_MODELS_URL" in capsys.readouterr().err
    assert cli.main(["models", "tiny", "--licenses"]) == 2


@pytest.mark.parametrize("package_name", ["tiny", "../tiny", "/tiny", ".."])
@pytest.mark.parametrize("file", ["../secret", "/secret", "..", "model.onnx"])
def test_manifest_with_a_path_that_leads_outside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_name: str, file: str
) -> None:
    content = b"secret"
    (tmp_path / "zoo").mkdir()
    (tmp_path / "secret").write_bytes(content)
    entry = {"family": "", "dataset": "", "license": "", "labels": [], "files": {}}
    listed = {**entry, "files": {file: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump({"packages": {package_name: listed}}))
    monkeypatch.setattr(manifest, "FILE", tmp_path / "zoo.yaml")
    read = manifest.read.__wrapped__  # not the cached one
    monkeypatch.setattr(manifest, "read", read)
    if (package_name, file) == ("tiny", "model.onnx"):
        assert list(read()) == ["tiny"]
        return
    with pytest.raises(PackageError, match="no file of a package: install actrec again"):
        manifest.fetch(package_name, str(tmp_path), tmp_path / "zoo")
    assert not list((tmp_path / "zoo").iterdir()) and len(list(tmp_path.iterdir())) == 3


def test_fetch_keeps_own_package_of_that_name(source: Path) -> None:
    write_tiny(zoo.own_folder() / "tiny")
    (zoo.own_folder() / "tiny/README.md").write_text("mine")
    with pytest.raises(PackageError, match="is not the published package tiny: move it away"):
        manifest.fetch("tiny", str(source), zoo.own_folder())
    shutil.rmtree(zoo.own_folder())


def test_licenses_list_every_package_and_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--licenses"]) == 0
    table = capsys.readouterr().out
    for name in (*manifest.read(), "perception/person_detection"):
        assert f"| {name} |" in table
    assert package.load(zoo.find(zoo.DEFAULT).path).provenance.license in table
