"""Recipes by path and by name: of a clone, and as an installation has them."""

import shutil
from pathlib import Path

import pytest

from actrec.inference import zoo
from actrec.utils.errors import ConfigError
from actrec_models.training import recipe

SHIPPED = Path(__file__).parents[2] / "models/recipes"


@pytest.mark.parametrize("asked", ["papers/vpn_ntu60", "papers/vpn_ntu60.yaml", "models/recipes/papers/vpn_ntu60.yaml"])
def test_a_recipe_is_found_by_name_wherever_one_is(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.find(asked) == SHIPPED / "papers/vpn_ntu60.yaml"
    assert recipe.read(asked).model == "vpn_i3d"


def test_a_file_of_the_users_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sem_net_nucla").write_text("model: sem_net")
    assert recipe.find("sem_net_nucla") == Path("sem_net_nucla")
    Path("sem_net_shrec17").mkdir()
    assert recipe.find("sem_net_shrec17") == SHIPPED / "sem_net_shrec17.yaml"


def test_every_recipe_that_is_there_is_known():
    paths = {path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")}
    assert set(recipe.names()) == paths
    assert {recipe.find(name) for name in paths} == set(SHIPPED.rglob("*.yaml"))


def test_an_installation_without_its_source_has_them_too(tmp_path, monkeypatch):
    shutil.copytree(SHIPPED, tmp_path / "share/actrec/models/recipes")
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "site-packages/actrec/zoo.py"))
    monkeypatch.setattr(zoo.sys, "prefix", str(tmp_path))
    assert recipe.find("sem_net_nucla") == tmp_path / "share/actrec/models/recipes/sem_net_nucla.yaml"
    assert recipe.folder("papers") == tmp_path / "share/actrec/models/recipes/papers"
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(ConfigError, match="folder models/recipes/papers not found"):
        recipe.folder("papers")
    with pytest.raises(ConfigError, match="known: none"):
        recipe.find("sem_net_nucla")


@pytest.mark.parametrize(
    ("asked", "said"),
    [("vpn_ntu60", "did you mean papers/vpn_ntu60"), ("x", "known: deepacts_cnn_nucla, "), (".", "recipe '.'")],
)
def test_what_is_no_recipe_is_refused_with_those_that_are(asked, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        recipe.read(asked)
