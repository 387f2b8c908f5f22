"""The Python code of docs/quickstart.md runs as it stands there."""

import re
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[2] / "docs/quickstart.md"


def test_quickstart_python_runs(data_root, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", QUICKSTART.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code.replace("/data/nucla", str(data_root / "nucla")), names)
    assert "pick up" in capsys.readouterr().out
    assert names["flow"].shape == (480, 640, 3)
    assert [body.positions.shape for body in names["people"]] == [(25, 3)], "the simulated actor is seen"
