"""Settings given as KEY=VALUE."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

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


LEVELS = range(1, 12)
LAUGHS = {
    "lists": "a0: &a0 [ha]\n" + "".join(f"a{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}'])}]\n" for k in LEVELS),
    "merged": "a0: &a0 {ha: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join(9 * [f'*a{k - 1}'])}]}}\n" for k in LEVELS),
    "keys": "a0: &a0 {ha: 1}\n" + "".join(f"a{k}: &a{k} {{1: *a{k - 1}, 2: *a{k - 1}}}\n" for k in range(1, 40)),
}
"""Short texts that aliases expand to more than 10^10 values."""

PARSE = """
import resource, sys, time

from actrec.utils import config

resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    config.parse_yaml(sys.argv[1])
except config.yaml.YAMLError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown / 1024 < 30, time.process_time() - began < 2, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is of Linux")
@pytest.mark.parametrize("kind", LAUGHS)
def test_parse_yaml_aliases_that_expand_endlessly_take_no_memory_and_no_time(kind: str) -> None:
    command = [sys.executable, "-c", PARSE, LAUGHS[kind]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "True True its aliases add more than 100,000 values: write them out\n"


@pytest.mark.parametrize("text", ["a: &a [1, *a]", "a: &a {b: [*a]}"])
def test_parse_yaml_value_that_contains_itself_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="an alias stands for a value around it"):
        config.parse_yaml(text)


def test_parse_yaml_aliases_and_merged_mappings_are_read() -> None:
    text = "a: &a {x: 1, y: [2]}\nb: *a\nc: {<<: *a, x: 3}\n"
    assert config.parse_yaml(text) == {"a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2]}, "c": {"x": 3, "y": [2]}}
