"""`actrec bench rendered`, its commands stubbed: the training itself is in test_rendered_end_to_end."""

import pytest

pytest.importorskip("torch", reason="the networks need PyTorch: make venv")

from actrec.utils.errors import ActrecError, ConfigError
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.registry import create
from actrec_models.training import recipe
from benchmarks import rendered as benchmark
from benchmarks.pages import marks

FAMILIES = {
    "res_tcn_bjcn", "c3d_flow", "c3d_flow_at1", "c3d_flow_at2", "flow_skeleton", "p_i3d", "vpn_i3d", "vpn_resnext101",
    "deepacts_cnn", "deepacts", "deepacts_multi",
}  # fmt: skip
ROW = {
    "network": "p_i3d", "inputs": "body_crop, pose", "parameters": 12345, "epochs": 9, "chance": 0.125,
    "held_out_actors": 0.75, "test_clips": 144, "minutes": 2.5,
}  # fmt: skip


def test_recipes_cover_every_image_and_flow_network():
    paths = sorted(recipe.folder("rendered").glob("*.yaml"))
    assert {path.stem for path in paths} == FAMILIES
    for path in paths:
        read = recipe.read(path)
        assert (read.model, read.dataset, read.split) == (path.stem, "rendered", "cross_actor")
        network = create(read.model, num_classes=8, **read.network_options())
        for stage in read.plan():
            assert not stage.name or stage.name in network.stages
        assert "nothing about people" in path.read_text()


def test_it_prepares_once_trains_each_and_writes_the_page(tmp_path, monkeypatch):
    said, page = [], tmp_path / "page.md"
    begin, end = marks("rendered")
    page.write_text(f"# Page\n{begin}\nold\n{end}\nEnd.\n")
    monkeypatch.setattr(benchmark, "_actrec", lambda *words: said.append(words))
    monkeypatch.setattr(benchmark, "_row", lambda path, *rest: {**ROW, "network": path.stem})
    (tmp_path / "recipes").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"recipes/{name}.yaml").write_text("model: p_i3d")
    paths = ["--recipes", str(tmp_path / "recipes"), "--out", str(tmp_path / "out"), "--write", str(page)]
    figures = benchmark.rendered([*paths, "--option", "takes=1"])
    assert [row["network"] for row in figures["networks"]] == ["a", "b"]
    assert figures["caveat"] == RenderedRgbd.caveat
    assert [words[:2] for words in said] == [("prepare", "rendered")]
    assert said[0][-2:] == ("--option", "takes=1")
    text = page.read_text()
    assert text.startswith("# Page\n") and text.endswith(f"{end}\nEnd.\n")
    assert "old" not in text
    assert RenderedRgbd.caveat in text
    assert "| `b` | body_crop, pose | 12,345 | 9 | 12.5% | **75.0%** of 144 | 2.5 |" in text


def test_wrong_names_and_pages_are_refused_before_anything_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "_actrec", lambda *words: pytest.fail("ran"))
    known = ["--recipes", str(recipe.folder("rendered"))]
    with pytest.raises(ConfigError, match="no recipe lstm in .*c3d_flow_at1"):
        benchmark.rendered([*known, "--networks", "p_i3d,lstm"])
    with pytest.raises(ConfigError, match="there are: none"):
        benchmark.rendered(["--recipes", str(tmp_path)])
    for page in ("plain.md", "missing.md"):
        (tmp_path / "plain.md").write_text("no marks")
        with pytest.raises(ConfigError, match=page):
            benchmark.rendered([*known, "--write", str(tmp_path / page)])


def test_a_command_that_fails_ends_it():
    with pytest.raises(ActrecError, match="actrec prepare failed"):
        benchmark._actrec("prepare", "no_such_dataset", "--quiet")
