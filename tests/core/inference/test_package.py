"""Model packages: writing and reading; missing, corrupt or foreign files raise a one-line error."""

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from actrec.inference import package, zoo
from actrec.inference.package import LowerPrecision
from actrec.utils import folders
from actrec.utils.errors import DeviceError, PackageError
from tests.tiny_model import LABELS, tiny_description, tiny_onnx, write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(folder: Path, **changes: object) -> None:
    """Set keys of model.yaml; `a__b` is the key b of a, None removes a key."""
    file = folder / "model.yaml"
    content = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        parent = content
        for step in path:
            parent = parent[int(step)] if step.isdigit() else parent[step]
        if value is None:
            del parent[last]
        else:
            parent[last] = value
    file.write_text(yaml.safe_dump(content))


def assert_refused(folder: Path, *words: str) -> None:
    with pytest.raises(PackageError) as raised:
        package.load(folder)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    for word in (str(folder), "actrec", *words):
        assert word in message, message


def test_load_written_package_reads_back(folder: Path) -> None:
    loaded = package.load(folder)
    assert loaded.name == "tiny"
    assert loaded.labels == LABELS
    expected = replace(tiny_description(), path=folder, provenance=loaded.provenance)
    assert loaded == expected
    assert loaded.read_onnx() == tiny_onnx()


def test_load_again_ignores_changes_of_a_caller(folder: Path) -> None:
    package.load(folder).provenance.figures["accuracy"] = "changed"
    assert "accuracy" not in package.load(folder).provenance.figures


def test_load_single_command_of_earlier_version_becomes_list(folder: Path) -> None:
    mapping = yaml.safe_load((folder / "model.yaml").read_text())
    mapping["provenance"]["recipe"] = "train a && train b"
    (folder / "model.yaml").write_text(yaml.safe_dump(mapping))
    assert package.load(folder).provenance.recipe == ("train a && train b",)


def test_write_stores_weights_and_card(tmp_path: Path) -> None:
    package.write(tmp_path / "p", tiny_description(), tiny_onnx(), weights=b"tensors", card="# Card\n")
    assert (tmp_path / "p/model.safetensors").read_bytes() == b"tensors"
    assert (tmp_path / "p/README.md").read_text() == "# Card\n"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_write_existing_package_replaced_only_with_overwrite(folder: Path) -> None:
    with pytest.raises(PackageError, match="exists"):
        write_tiny(folder)
    package.write(folder, tiny_description(threshold=0.9), tiny_onnx(), overwrite=True)
    assert package.load(folder).rejection.threshold == 0.9
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_write_over_other_files_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.txt").write_text("years")
    (tmp_path / "file").write_text("a recipe")
    for name in ("work", "file"):
        with pytest.raises(PackageError, match="exists without model.yaml: only a package is overwritten"):
            package.write(tmp_path / name, tiny_description(), tiny_onnx(), overwrite=True)
    assert (tmp_path / "work/thesis.txt").read_text() == "years" and (tmp_path / "file").read_text() == "a recipe"


def test_write_over_package_with_other_files_refused(folder: Path) -> None:
    """A package folder that also holds checkpoints or a repository is not overwritten."""
    (folder / "last.ckpt").write_text("days")
    (folder / ".git").mkdir()
    with pytest.raises(PackageError, match=r"tiny also holds .git, last.ckpt, which would be lost: choose another"):
        package.write(folder, tiny_description(), tiny_onnx(), overwrite=True)
    assert (folder / "last.ckpt").read_text() == "days" and (folder / ".git").is_dir()


def test_check_output_folder_unwritable_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="file is not a folder"):
        folders.check_output_folder(tmp_path / "file/p", package.FILES)
    with pytest.raises(DeviceError, match="cannot write /proc/x9/p"):
        folders.check_output_folder("/proc/x9/p", package.FILES)
    with pytest.raises(DeviceError, match="~nosuchuser9/p.*no such home folder"):
        folders.check_output_folder("~nosuchuser9/p", package.FILES)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DeviceError, match="cannot write .*: No space left on device"):
        package.write(tmp_path / "p", tiny_description(), tiny_onnx())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_write_invalid_description_keeps_old_package(folder: Path) -> None:
    with pytest.raises(PackageError, match="twice"):
        package.write(folder, tiny_description(labels=("a", "a", "b")), tiny_onnx(), overwrite=True)
    assert package.load(folder).labels == LABELS
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_load_missing_folder_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent", "no such model package")


def test_load_missing_file_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.onnx").unlink()
    assert_refused(folder, "model.onnx", "No such file")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "model.yaml", "no model package")
    (tmp_path / "empty/last.ckpt").touch()
    assert_refused(tmp_path / "empty", "export the training in it (actrec export ", "empty/last.ckpt --out …)")


def test_load_half_copied_description_refused(folder: Path) -> None:
    """Wherever the copy stops: the first part of a YAML file is YAML, too, and may lack only settings with defaults."""
    file = folder / "model.yaml"
    content = file.read_bytes()
    for size in range(len(content.rstrip())):
        file.write_bytes(content[:size])
        assert_refused(folder, "model.yaml")
    file.write_bytes(content.rstrip())
    assert package.load(folder).labels == LABELS


def test_load_description_of_earlier_version_without_marks(folder: Path) -> None:
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text())))
    assert package.load(folder).labels == LABELS
    file.write_text(file.read_text() + "bodies: 16")  # of the next line, which was cut off
    assert_refused(folder, "model.yaml", "is cut off: its last line does not end")


@pytest.mark.parametrize("name", ["model.yaml", "model.onnx"])
def test_load_pipe_or_device_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert_refused(folder, name, "a pipe or a device, not a file")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert_refused(folder, name, "a pipe or a device, not a file")


def test_load_description_whose_aliases_expand_endlessly_refused(folder: Path) -> None:
    lines = [f"a{k}: &a{k} {{<<: [{', '.join(9 * [f'*a{k - 1}'])}]}}" for k in range(1, 12)]
    (folder / "model.yaml").write_text("\n".join(["---", "a0: &a0 {wave: 1}", *lines, "...\n"]))
    assert_refused(folder, "model.yaml", "cannot be read as plain YAML")


def test_load_network_too_large_for_onnx_refused(folder: Path) -> None:
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(package.MAX_BYTES + 1)
    assert_refused(folder, "model.onnx", "larger than 2048 MiB")


@pytest.mark.parametrize("change", ["truncated", "replaced"])
def test_load_changed_network_refused(folder: Path, change: str) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-20] if change == "truncated" else tiny_onnx(frames=9))
    assert_refused(folder, "model.onnx", "SHA-256")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "lacks the key 'labels'"),
        ({"labels": "left"}, "labels is 'left', expected a list"),
        ({"labels": ["a", 3]}, "labels[1] is 3, expected a string"),
        ({"labels": ["a", True]}, "labels[1] is True, expected a string"),
        ({"labels": ["a"]}, "at least 2"),
        ({"labels": ["a", "a"]}, "twice"),
        ({"labels": ["a", ""]}, "empty name"),
        ({"labels": ["a", "unknown"]}, "'unknown'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"path": "/etc"}, "unknown key 'path'"),
        ({"window__seconds": "two"}, "window: seconds is 'two', expected a number"),
        ({"window__seconds": float("nan")}, "finite"),
        ({"window__seconds": -1}, "seconds is -1.0"),
        ({"window__frames": 2.5}, "frames is 2.5, expected a whole number"),
        ({"window__frames": 0}, "frames is 0"),
        ({"window": [2, 8]}, "window is a list, expected keys and values"),
        ({"inputs": []}, "inputs is empty"),
        ({"inputs__0__shape": [1, -3]}, "shape"),
        ({"inputs__0__shape": []}, "shape"),
        ({"inputs__0__modality": None}, "inputs[0] lacks the key 'modality'"),
        ({"rejection__threshold": 1.5}, "threshold is 1.5"),
        ({"rejection__temperature": 0}, "temperature is 0.0"),
        ({"provenance__accuracy": 94.6}, "accuracy is 94.6"),
        ({"provenance__onnx_sha256": "abc"}, "SHA-256"),
        ({"provenance__seed": True}, "seed is True, expected a whole number"),
        ({"bodies": 0}, "bodies is 0"),
        ({"schema_version": 1}, "schema_version is 1, this actrec reads 2: export it again"),
        ({"schema_version": 3, "new_key": 1}, "update actrec"),
        ({"schema_version": "1"}, "schema_version is '1', expected a whole number"),
    ],
)
def test_load_wrong_description_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit(folder, **changes)
    assert_refused(folder, "model.yaml", message)


def test_write_stores_float16_network(folder: Path) -> None:
    half = tiny_onnx(poison=True)
    description = replace(tiny_description(), float16=LowerPrecision(0.001, accuracy=0.9))
    written = package.write(folder, description, tiny_onnx(), overwrite=True, lower={"float16": half})
    assert written.precisions == ("float32", "float16")
    assert (written.float16.file, written.float16.accuracy) == ("model.float16.onnx", 0.9)
    assert (written.read_onnx(), written.read_onnx("float16")) == (tiny_onnx(), half)
    for changes, message in (
        ({"float16__file": "../other.onnx"}, "float16: file is '../other.onnx'"),
        ({"float16__file": "model.onnx"}, "float16: file is 'model.onnx'"),
        ({"float16__sha256": "abc"}, "float16: sha256 is no SHA-256"),
        ({"float16__difference": -1}, "float16: difference is -1.0"),
        ({"float16__accuracy": 94}, "float16: accuracy is 94.0"),
        ({"float16": True}, "float16 is True, expected keys and values"),
    ):
        original = (folder / "model.yaml").read_text()
        edit(folder, **changes)
        assert_refused(folder, "model.yaml", message)
        (folder / "model.yaml").write_text(original)


def test_write_without_float16_bytes_drops_its_description(folder: Path) -> None:
    description = replace(tiny_description(), float16=LowerPrecision(0.001))
    written = package.write(folder, description, tiny_onnx(), overwrite=True)
    assert written.float16 is None and written.precisions == ("float32",)
    with pytest.raises(PackageError, match="no network in float16"):
        written.read_onnx("float16")
    with pytest.raises(PackageError, match="needs a description"):
        package.write(folder, tiny_description(), tiny_onnx(), overwrite=True, lower={"float16": b""})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("labels: [a, b", "cannot be read"),
        ("", "empty"),
        ("- a\n- b\n", "a list"),
        ("just text", "'just text'"),
        ("family: resnet\nweights: best.pth\n", "unknown key 'weights'"),
        ("[" * 50_000, "cannot be read"),
        ("schema_version: 1\n" + "# " + "x" * (1 << 20), "larger than"),
    ],
)
def test_load_foreign_file_refused(folder: Path, content: str, message: str) -> None:
    (folder / "model.yaml").write_text(content)
    assert_refused(folder, "model.yaml", message)


def test_load_binary_description_refused(folder: Path) -> None:
    (folder / "model.yaml").write_bytes(bytes(range(256)) * 4)
    assert_refused(folder, "model.yaml", "cannot be read")


def test_load_python_tags_do_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "witness"
    (folder / "model.yaml").write_text(f"labels: !!python/object/apply:os.system ['touch {marker}']\n")
    assert_refused(folder, "cannot be read as plain YAML (line 1)")
    assert not marker.exists()


def test_load_pickle_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "witness"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    for name in ("model.pkl", "model.pt", "model.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Hostile()))
    package.load(folder)
    assert not marker.exists()


def test_find_takes_path_or_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTREC_MODELS", f"/nowhere{os.pathsep}{folder.parent}")
    assert zoo.find("tiny").path == folder
    assert zoo.find(folder).path == folder
    assert zoo.find(str(folder)).path == folder
    monkeypatch.chdir(folder.parent)
    assert zoo.find("./tiny").path == folder


def test_find_user_package_precedes_shipped_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_folder = tmp_path / "home/actrec/models/tiny"
    write_tiny(user_folder, threshold=0.7)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ACTREC_MODELS", raising=False)
    assert zoo.find("tiny").path == user_folder
    monkeypatch.setenv("ACTREC_MODELS", str(folder.parent))
    assert zoo.find("tiny").path == folder


def test_find_unknown_name_lists_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTREC_MODELS", str(folder.parent))
    for name in ("tony", ""):
        with pytest.raises(PackageError, match="tiny"):
            zoo.find(name)


def test_list_packages_includes_broken_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(folder.parent / "broken")
    (folder.parent / "broken/model.onnx").write_bytes(b"")
    monkeypatch.setenv("ACTREC_MODELS", str(folder.parent))
    entries = {entry.name: entry for entry in zoo.list_packages()}
    assert entries["tiny"].package is not None and entries["tiny"].problem == ""
    assert entries["broken"].package is None and "SHA-256" in entries["broken"].problem
