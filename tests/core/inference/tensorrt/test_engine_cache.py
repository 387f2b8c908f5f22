"""The engine cache: killed builds, concurrent builds, damaged engines, and unwritable folders."""

import errno
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from actrec.inference.tensorrt import cache as tensorrt_cache
from actrec.inference.tensorrt.cache import EngineCache, EngineKey
from actrec.utils import file_lock
from actrec.utils.errors import DeviceError

KEY = EngineKey(
    package="tiny", onnx_sha256="a" * 64, precision="fp16", shapes={"body": ((1, 3), (1, 3), (4, 3))},
    options={"workspace_mb": 64}, library="tensorrt", version="10.3.0", capability="sm_87", cuda="12.6",
    gpu="Orin, 8.7, 8192 MiB",
)  # fmt: skip


def test_stored_engine_is_found_and_logged(tmp_path):
    cache = EngineCache(tmp_path / "engines")
    assert cache.find(KEY) is None
    path = cache.store(KEY, b"engine", {"seconds": 3.5})
    assert cache.find(KEY) == b"engine"
    assert EngineCache(tmp_path / "engines").find(KEY) == b"engine"
    details = json.loads(path.with_suffix(".json").read_text())
    assert details["key"]["gpu"] == KEY.gpu and details["seconds"] == 3.5
    assert path.name.startswith("tiny_tensorrt_fp16_sm_87_")
    assert path.stat().st_mode & 0o044 == 0o044, "of one user, for another: `sudo actrec build-engine`, then a node"


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "b" * 64}, {"precision": "fp32"}, {"shapes": {"body": ((1, 3), (2, 3), (4, 3))}},
        {"options": {}}, {"version": "10.3.1"}, {"cuda": "13.0"}, {"gpu": "Orin, 8.7, 16384 MiB"},
    ],
)  # fmt: skip
def test_find_changed_key_finds_no_engine(tmp_path, change):
    cache = EngineCache(tmp_path)
    cache.store(KEY, b"engine", {})
    assert cache.find(replace(KEY, **change)) is None
    assert cache.find(replace(KEY, package="renamed")) is None, "packages of the same digest have separate engines"


@pytest.mark.parametrize("damage", ["engine", "note", "deep", "foreign", "list", "cut"])
def test_damaged_engine_is_logged_and_built_again(tmp_path, damage, caplog):
    cache = EngineCache(tmp_path)
    path = cache.store(KEY, b"engine", {})
    details_file = path.with_suffix(".json")
    if damage == "engine":
        path.write_bytes(b"engins")
    elif damage == "cut":
        path.write_bytes(b"")
    elif damage == "note":
        details_file.write_text("{")
    elif damage == "deep":
        details_file.write_text("[" * 100_000)
    elif damage == "list":
        details_file.write_text("[]")
    else:
        details_file.write_text(json.dumps({**json.loads(details_file.read_text()), "key": {}}))
    assert cache.find(KEY) is None
    assert "built again" in caplog.text
    cache.store(KEY, b"engine", {})
    assert cache.find(KEY) == b"engine"


def test_engine_of_another_user_that_cannot_be_read_is_logged(tmp_path, monkeypatch, caplog):
    cache = EngineCache(tmp_path / "engines")
    path = cache.store(KEY, b"engine", {})

    def refuse(file, *_):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return file.read_bytes()

    monkeypatch.setattr(tensorrt_cache, "read_file", refuse)
    assert cache.find(KEY) is None
    assert f"{path} is another user's and cannot be read" in caplog.text and "ACTREC_ENGINES" in caplog.text


def test_find_engine_without_note_is_ignored(tmp_path):
    cache = EngineCache(tmp_path)
    cache.store(KEY, b"engine", {}).with_suffix(".json").unlink()
    assert cache.find(KEY) is None


def build_engine(folder, started, ready, content):
    cache = EngineCache(folder)
    with cache.building(KEY) as built:
        if built is not None:
            os._exit(3)
        started.set()
        ready.wait(60)
        cache.store(KEY, content, {})


def start_build(folder, content):
    context = multiprocessing.get_context("spawn")
    started, ready = context.Event(), context.Event()
    process = context.Process(target=build_engine, args=(folder, started, ready, content))
    process.start()
    return process, started, ready


def once_waiting(caplog, act):
    """Run a function in a thread once this process waits for the lock of another one."""

    def follow():
        while "another process builds this engine" not in caplog.text:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def test_building_second_process_waits_for_first(tmp_path, caplog):
    caplog.set_level("INFO")
    first, started, ready = start_build(tmp_path, b"first")
    assert started.wait(60)
    once_waiting(caplog, ready.set)
    with EngineCache(tmp_path).building(KEY, waiting_s=0.5) as built:
        assert built == b"first"
    first.join()


@pytest.fixture
def shared(tmp_path):
    """Return a folder that all users can write to, with this process as another user than root."""
    with tempfile.TemporaryDirectory(prefix="actrec_test_") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder
        if os.getuid() == 0:
            os.seteuid(0)


def become_another_user():
    if os.getuid() == 0:
        os.seteuid(65534)


def test_building_lock_of_another_user_is_waited_for(shared, caplog):
    """It can only be read."""
    caplog.set_level("INFO")
    cache = EngineCache(shared)
    lock = cache.path(KEY).with_suffix(".lock")
    lock.touch(0o444)
    with lock.open("rb") as held:
        file_lock.lock(held.fileno())
        become_another_user()

        def store() -> None:
            cache.store(KEY, b"first", {})
            held.close()

        ended = once_waiting(caplog, store)
        with cache.building(KEY, waiting_s=0.1) as built:
            assert built == b"first"
        ended.join()


def test_building_in_another_users_folder_fails_before_the_build(shared):
    """Also if that user's build has failed, and left its lock."""
    cache = EngineCache(shared)
    cache.path(KEY).with_suffix(".lock").touch(0o444)
    shared.chmod(0o555)
    become_another_user()
    with pytest.raises(DeviceError, match="engines cannot be kept in .*Permission denied"), cache.building(KEY):
        pytest.fail("the build begins")


def test_building_keeps_the_file_that_a_link_of_another_user_names(tmp_path):
    (tmp_path / "notes").write_text("days of work")
    cache = EngineCache(tmp_path / "engines")
    cache.folder.mkdir()
    cache.path(KEY).with_suffix(".lock").symlink_to(tmp_path / "notes")
    with cache.building(KEY):
        pass
    assert (tmp_path / "notes").read_text() == "days of work"


def test_find_pipe_instead_of_a_file_does_not_wait(tmp_path):
    cache = EngineCache(tmp_path)
    path = cache.store(KEY, b"engine", {})
    for suffix in (".engine", ".json", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)
        os.mkfifo(path.with_suffix(suffix))
        assert cache.find(KEY) is None
    assert cache.difference(KEY) is None and cache.misfits(KEY) == ""
    with pytest.raises(DeviceError, match="engines cannot be kept in"), cache.building(KEY):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_check_trusted_folder_or_engine_that_others_can_write_raises(tmp_path, mode):
    cache = EngineCache(tmp_path / "engines")
    cache.check_trusted()
    path = cache.store(KEY, b"engine", {})
    with cache.building(KEY):
        cache.check_trusted()
    for place in (path, path.with_suffix(".json"), cache.folder):
        before = place.stat().st_mode
        place.chmod(mode)
        with pytest.raises(DeviceError, match=f"'{place}' is another user's, or others can write to it; .*chmod go-w"):
            cache.check_trusted()
        place.chmod(before)
    tmp_path.chmod(0o777)  # then the folder can be replaced
    with pytest.raises(DeviceError, match=f"'{tmp_path}' is another user's, or others can write to it"):
        cache.check_trusted()
    tmp_path.chmod(0o1777)
    cache.check_trusted()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_check_trusted_engine_of_another_user_raises(tmp_path):
    cache = EngineCache(tmp_path)
    path = cache.store(KEY, b"engine", {})
    os.chown(path.with_suffix(".json"), 65534, -1)
    with pytest.raises(DeviceError, match="json' is another user's"):
        cache.check_trusted()


def test_building_killed_process_leaves_no_file_or_lock(tmp_path):
    first, started, _ = start_build(tmp_path, b"first")
    assert started.wait(60)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    cache = EngineCache(tmp_path)
    with cache.building(KEY) as built:
        assert built is None
        cache.store(KEY, b"second", {})
    assert cache.find(KEY) == b"second"
    assert not list(tmp_path.glob(".*"))


def test_store_killed_keeps_old_engine(tmp_path, monkeypatch):
    cache = EngineCache(tmp_path)
    cache.store(KEY, b"old", {})

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store(KEY, b"new", {})
    assert cache.find(KEY) == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_unwritable_cache_folder_raises_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file/engines")
    assert cache.find(KEY) is None or pytest.fail("found in a file")
    remedy = "name another folder in ACTREC_ENGINES"
    with pytest.raises(DeviceError, match=f"cannot write '.*file/engines/.*': .*; {remedy}"):
        cache.store(KEY, b"engine", {})
    message = f"engines cannot be kept in '.*file/engines': .*; {remedy}"
    with pytest.raises(DeviceError, match=message), cache.building(KEY):
        pass
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DeviceError, match="No space left on device"):
        EngineCache(tmp_path / "full").store(KEY, b"engine", {})
    assert not list((tmp_path / "full").iterdir())


def test_file_system_without_locks_raises_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(
        file_lock.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available"))
    )
    message = "engines cannot be kept in '.*': No locks available; name another folder in ACTREC_ENGINES"
    with pytest.raises(DeviceError, match=message), EngineCache(tmp_path).building(KEY):
        pass


def test_find_in_read_only_folder(tmp_path, monkeypatch):
    """A patch raises the error of a read-only folder, as root can write everywhere."""
    EngineCache(tmp_path).store(KEY, b"engine", {})
    monkeypatch.setattr(tensorrt_cache.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only")))
    assert EngineCache(tmp_path).find(KEY) == b"engine"


def test_default_folder_follows_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ACTREC_ENGINES", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / "actrec/engines"
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "mine"))
    assert EngineCache().folder == tmp_path / "mine"


def test_timings_belong_to_one_tensorrt_and_gpu(tmp_path):
    cache = EngineCache(tmp_path)
    assert cache.timings(KEY) == b""
    cache.store_timings(KEY, b"times")
    assert cache.timings(replace(KEY, precision="fp32", onnx_sha256="c" * 64)) == b"times"
    assert cache.timings(replace(KEY, gpu="Xavier")) == b""
