"""Settings given as KEY=VALUE."""

from dataclasses import dataclass
from typing import Any

import pytest

from actrec.utils import config
from actrec.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("fps=30", 30),
        ("rate=0.5", 0.5),
        ("loop=true", True),
        ("path=/data/run.mcap", "/data/run.mcap"),
        ("options={width: 4}", {"width": 4}),
        ("model=", ""),
        ("query=a=b", "a=b"),
        ("start=0", 0),
        ("serial=000123312712", "000123312712"),  # an Azure Kinect's; YAML reads 21992906
        ("serial=843112070001", 843112070001),
        ("path=/data/run #3.mcap", "/data/run #3.mcap"),
        ("path=#3", "#3"),
        ("path=C: drive", "C: drive"),
        ("path=2026-11-22", "2026-11-22"),
        ("path=2026_11_22", "2026_11_22"),
        ("path=12:30", "12:30"),
        ("path='2026_11_22'", "2026_11_22"),
        ("size=null", None),
        ("actions=[wave, clap]", ["wave", "clap"]),
    ],
)
def test_parse_pairs_reads_yaml_except_serial_numbers(word, value):
    read = config.parse_pairs([word], "option")
    assert read == {word.split("=")[0]: value}
    assert type(next(iter(read.values()))) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fps", "option is 'fps', expected KEY=VALUE"),
        ("a={b", "option 'a={b': the value"),
        ("on=2024-13-45", "option 'on=2024-13-45': the value"),
    ],
)
def test_parse_pairs_invalid_word_raises(word, message):
    with pytest.raises(ConfigError, match=message):
        config.parse_pairs([word], "option")


def test_build_whole_number_of_a_float_setting_becomes_a_float():
    @dataclass(frozen=True)
    class Camera:
        fps: float = config.setting(30.0, "rate")
        width: int = config.setting(640, "width")

    built = config.build(Camera, {"fps": 15, "width": 320})
    assert (type(built.fps), type(built.width)) == (float, int)


def test_merge_settings_dotted_name_changes_nested_field():
    recipe: dict[str, Any] = {"epochs": 3, "schedule": {"name": "steps", "every": 5}, "augmentation": {}}
    changes = config.parse_pairs(
        ["schedule.every=2", "augmentation.noise_m=0.01", "optimizer.name=sgd", "epochs=4"], "field"
    )
    assert config.merge_settings(recipe, changes) == {
        "epochs": 4,
        "schedule": {"name": "steps", "every": 2},
        "augmentation": {"noise_m": 0.01},
        "optimizer": {"name": "sgd"},
    }
    assert recipe["schedule"]["every"] == 5
    whole_first = config.parse_pairs(["schedule={name: cosine}", "schedule.final=0.1"], "field")
    assert config.merge_settings(recipe, whole_first)["schedule"] == {"name": "cosine", "final": 0.1}
    again = config.parse_pairs(["schedule.final=0.1", "schedule={name: cosine}", "schedule.final=0.2"], "field")
    assert config.merge_settings(recipe, again)["schedule"] == {"name": "cosine", "final": 0.2}
    assert config.merge_settings({}, {"a.b.c": 1}) == {"a": {"b": {"c": 1}}}
    with pytest.raises(ConfigError, match=r"epochs\.first cannot be set: epochs is 3, no mapping; set it as a whole"):
        config.merge_settings(recipe, {"epochs.first": 1})
