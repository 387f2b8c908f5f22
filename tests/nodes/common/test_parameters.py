"""ROS parameters of a settings dataclass; a bad value raises a one-line error with its name."""

from dataclasses import dataclass

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from actrec.cameras.azure_kinect.camera import AzureKinectConfig
from actrec.inference.tensorrt.backend import TensorRtConfig
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_nodes.common import parameters


@dataclass(frozen=True)
class Inner:
    gain: float = setting(2.0, "a gain")


@dataclass(frozen=True)
class Settings:
    rate: float = setting(15.0, "frames a second", unit="Hz", range=(1.0, 60.0))
    count: int = setting(3, "how many", range=(0, 10))
    name: str = setting("one", "which", choices=("one", "two"))
    on: bool = setting(True, "whether")
    limit: float | None = setting(None, "a limit, or none")
    names: list[str] = setting([], "some names")
    size: tuple[int, ...] = setting((640, 480), "a size")
    inner: Inner = setting(Inner(), "nested")


@pytest.fixture
def make(context):
    nodes = []

    def make(**values):
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        nodes.append(Node("params", context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def test_parameters_defaults_are_the_dataclasss(make) -> None:
    assert parameters.Parameters(make(), Settings).read() == Settings()


def test_parameters_overrides_are_read_with_their_types(make) -> None:
    values = {
        "rate": 30.0,
        "count": 5,
        "name": "two",
        "on": False,
        "limit": 0.5,
        "names": ["a", "b"],
        "size": [320, 240],
    }
    settings = parameters.Parameters(make(**values, inner__gain=3.0), Settings).read()
    assert settings == Settings(30.0, 5, "two", False, 0.5, ["a", "b"], (320, 240), Inner(3.0))


def test_parameters_integer_is_accepted_for_a_float(make) -> None:
    assert parameters.Parameters(make(rate=30), Settings).read().rate == 30.0


def test_parameters_descriptor_has_description_range_unit_and_choices(make) -> None:
    node = make()
    parameters.Parameters(node, Settings)
    rate, name = node.describe_parameter("rate"), node.describe_parameter("name")
    assert rate.description == "frames a second [Hz]"
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (1.0, 60.0)
    assert node.describe_parameter("count").integer_range[0].to_value == 10
    assert name.additional_constraints == "one of: one, two"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rate": 100.0}, "parameter rate is 100.0, allowed: float in 1.0 to 60.0 Hz"),
        ({"rate": 100}, "parameter rate is 100"),
        ({"rate": "fast"}, "parameter rate is 'fast', allowed: float"),
        ({"count": 2.5}, "parameter count is 2.5, allowed: int in 0 to 10"),
        ({"name": "three"}, "parameter name is 'three', allowed: one, two"),
        ({"limit": "none"}, "parameter limit is 'none'"),
        ({"inner__gain": "loud"}, "parameter inner.gain is 'loud', expected float"),
    ],
)
def test_parameter_bad_value_raises_with_its_name(make, values, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parameters.Parameters(make(**values), Settings).read()


def test_parameter_bad_value_can_be_corrected(make) -> None:
    node = make(count=99)
    settings = parameters.Parameters(node, Settings)
    with pytest.raises(ConfigError):
        settings.read()
    node.set_parameters([Parameter("count", value=7)])
    assert settings.read().count == 7


def test_parameter_bad_value_can_be_corrected_to_the_default(make) -> None:
    node = make(count="three")
    settings = parameters.Parameters(node, Settings)
    assert not node.set_parameters([Parameter("count", value="four")])[0].successful
    with pytest.raises(ConfigError, match="parameter count is 'three'"):
        settings.read()
    node.set_parameters([Parameter("count", value=3)])
    assert settings.read().count == 3


def test_parameter_bad_value_raises_after_each_declaration(make) -> None:
    node = make(driver__rate="fast")
    for _ in range(3):  # repeated, like `configure`
        with pytest.raises(ConfigError, match=r"parameter driver\.rate is 'fast', allowed: float"):
            parameters.Parameters(node, Settings, "driver").read()
    node.set_parameters([Parameter("driver.rate", value=30.0)])
    assert parameters.Parameters(node, Settings, "driver").read().rate == 30.0


def test_parameter_unknown_name_under_a_prefix_raises_with_the_known_ones(make) -> None:
    with pytest.raises(ConfigError, match=r"unknown parameter driver\.rat; known: driver\.count, driver\.inner"):
        parameters.Parameters(make(driver__rat=3.0), Settings, "driver").read()
    assert (
        parameters.Parameters(make(driver__rate=3.0, driver__inner__gain=1.0, other__rat=3.0), Settings, "driver")
        .read()
        .rate
        == 3
    )


def test_parameters_declared_twice_keep_their_value(make) -> None:
    node = make(rate=20.0)
    parameters.Parameters(node, Settings)
    assert parameters.Parameters(node, Settings).read().rate == 20.0


@pytest.mark.parametrize(
    ("settings", "name"),
    [(AzureKinectConfig, "library"), (AzureKinectConfig, "body_library"), (TensorRtConfig, "cache")],
)
def test_parameters_that_name_code_cannot_be_changed_later(make, settings, name) -> None:
    """A client that may set parameters must not run a library, or label with another engine."""
    node = make(**{f"driver__{name}": "/opt/own"})
    options = parameters.Parameters(node, settings, "driver")
    assert not node.set_parameters([Parameter(f"driver.{name}", value="/tmp/other")])[0].successful
    assert getattr(options.read(), name) == "/opt/own"
