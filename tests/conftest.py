"""Fixtures that every test may use, and a ROS domain of its own for each pytest worker."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# DDS finds other participants by domain: tests side by side, or beside a running graph, must not hear one another.
# 101 is the highest domain that every platform supports; the first ones are what people use by hand.
FIRST_DOMAIN, LAST_DOMAIN = 40, 101
WORKERS = 8

# Before numpy and torch are imported. Tests run side by side, a worker for each core: threads of several workers that
# spin on the same cores, waiting for one another, take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    # The main process picks a block of domains by its process id; the workers inherit the choice and take one each.
    blocks = (LAST_DOMAIN - FIRST_DOMAIN + 1) // WORKERS
    block = int(os.environ.setdefault("ACTREC_TEST_DOMAINS", str(os.getpid() % blocks)))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    # More workers than a block has domains go on into the next ones.
    os.environ["ROS_DOMAIN_ID"] = str(FIRST_DOMAIN + (block * WORKERS + worker) % (blocks * WORKERS))
    os.environ.setdefault("ROS_LOG_DIR", str(Path(os.environ.get("TMPDIR", "/tmp")) / "actrec_test_logs"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of recorded data: ACTREC_DATA, by default shared/data beside the repository."""
    folder = Path(os.environ.get("ACTREC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"no recorded data in {folder}: set ACTREC_DATA to their folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
