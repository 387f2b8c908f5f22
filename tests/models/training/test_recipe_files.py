"""Files of recipes and of the papers' tables that would block, fill the memory or never end are refused in one line."""

import os

import pytest

from actrec.utils.errors import ConfigError
from actrec_models.training import paper_tables, recipe

READ = {"recipe": recipe.read, "tables": paper_tables.read}


@pytest.fixture(params=READ)
def refused(request, tmp_path):
    """Return a function that reads a file, which is refused, and returns the message."""

    def read(path):
        with pytest.raises(ConfigError) as raised:
            READ[request.param](path)
        line = str(raised.value)
        assert str(path) in line and "\n" not in line
        return line

    return read


def test_read_pipe_or_device_refused(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "a pipe or a device, not a file" in refused(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    assert "a pipe or a device, not a file" in refused(tmp_path / "zero.yaml")


def test_read_file_of_two_megabytes_refused(refused, tmp_path):
    (tmp_path / "huge.yaml").write_text("# " + "x" * (1 << 21))
    assert "larger than 1 MiB" in refused(tmp_path / "huge.yaml")


def test_read_aliases_that_expand_endlessly_refused(refused, tmp_path):
    lines = [f"a{k}: &a{k} {{<<: [{', '.join(9 * [f'*a{k - 1}'])}]}}" for k in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(["a0: &a0 {batch: 1}", *lines]))
    assert "its aliases add more than 100,000 values" in refused(tmp_path / "laughs.yaml")
