"""Identity of scene flow: rates of stamps, and how live flow differs from a training's."""

import numpy as np
import pytest

from actrec.scene_flow import identity
from actrec.utils.errors import ConfigError

TRAINED = {"method": "pd_flow", "height": 120, "rate": 30.0}


def test_rate_lost_images_keep_rate() -> None:
    stamps = np.arange(30) * 1_000_000_000 // 15
    assert identity.rate(stamps) == 15.0
    assert identity.rate(np.delete(stamps, [3, 10, 11, 20])) == 15.0
    assert identity.rate(stamps[:2]) == 0.0 and identity.rate(stamps[:5]) == 0.0, "less than half a second"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, set()),
        (TRAINED, set()),
        ({"method": "dis"}, {"method"}),
        ({"method": "pd_flow", "height": 240, "rate": 25.0}, {"height"}),
        ({"rate": 23.9}, {"rate"}),
        ({"rate": 37.6, "method": "dis"}, {"rate", "method"}),
    ],
)
def test_differing_known_settings_found(made, expected) -> None:
    found = identity.differing(TRAINED, made)
    assert found == {name: TRAINED[name] for name in expected}
    assert bool(identity.describe(TRAINED, made, identity.LIVE)) == bool(expected)
    assert identity.differing({}, made) == {}


def test_describe_names_both_values_and_remedy() -> None:
    made = {"method": "dis", "height": 240, "rate": 10.0}
    live, prepared = (identity.describe(TRAINED, made, each) for each in (identity.LIVE, identity.PREPARED))
    values = "method dis, trained with pd_flow and height 240, trained with 120 and rate 10, trained with 30"
    assert live.startswith(f"scene flow has {values}; use a camera of 30 Hz")
    assert live.endswith("--ros-args -p scene_flow_node:method:=pd_flow -p scene_flow_node:height:=120")
    assert prepared.endswith("actrec prepare the dataset with --set flow.method=pd_flow --set flow.height=120")


def test_text_has_units_of_known_settings() -> None:
    assert identity.text(TRAINED) == "pd_flow, 120 px, 30 Hz" and identity.text({"height": 240}) == "240 px"


def test_check_unknown_name_refused() -> None:
    identity.check(TRAINED)
    with pytest.raises(ConfigError, match="scene_flow has 'methods'; known: method, height, rate"):
        identity.check({"methods": "dis"})
