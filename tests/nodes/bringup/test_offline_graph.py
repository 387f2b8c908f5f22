"""No network access at run time: `actrec run` and its nodes connect to no other machine."""

from pathlib import Path

import pytest

from tests.refused_network import attempts

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]

RUN = """
import json
from actrec import cli

with_all = ["--with", "face,hand,visualization", "--duration", "8", "--json"]
assert cli.main(["run", "--driver", "simulated", *with_all]) == 0
"""


def test_graph_makes_no_connection_to_other_machines(tmp_path: Path) -> None:
    """DDS sends to its multicast groups and to the machine's own addresses."""
    assert attempts(RUN, tmp_path) == []
