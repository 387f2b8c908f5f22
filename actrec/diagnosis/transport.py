"""Image transport between processes: measured for real, with the settings that ship and with Fast DDS as it comes."""

from collections.abc import Callable, Iterator
from pathlib import Path

from actrec.diagnosis.finding import Finding
from actrec.errors import ActrecError

AREA = "transport"
ENOUGH, TOO_FEW = 0.9, 0.5
"""Share of images below which the transport is a gap, and below which the graph cannot work."""
RECEIVE_BUFFER = Path("/proc/sys/net/core/rmem_max")
SEND_BUFFER = Path("/proc/sys/net/core/wmem_max")
BUFFER_BYTES = 2 * 1024 * 1024
"""An image of 640×480 in one datagram burst must fit, with room for depth beside it."""

Measure = Callable[..., dict[str, float]]


def findings(measure: Measure, seconds: float = 2.0) -> Iterator[Finding]:
    """The socket buffers and two measurements.

    Args:
        measure: `actrec_nodes.transport_check.measure`, handed in because the core does not import ROS.
        seconds: How long each measurement publishes.
    """
    yield from socket_buffers()
    yield _measured(
        "images, actrec's profile",
        lambda: measure(seconds, with_profile=True),
        "unset your own Fast DDS settings (FASTRTPS_DEFAULT_PROFILES_FILE, FASTDDS_BUILTIN_TRANSPORTS), and free "
        "/dev/shm; or run everything in one process on fewer nodes",
        required=True,
    )
    yield _measured(
        "images, default profile",
        lambda: measure(seconds, with_profile=False),
        "programs other than actrec's lose these images: start them with "
        "FASTRTPS_DEFAULT_PROFILES_FILE=<share of actrec>/config/fastdds.xml",
        required=False,
    )


def _measured(name: str, measure: Callable[[], dict[str, float]], remedy: str, required: bool) -> Finding:
    try:
        figures = measure()
    except ActrecError as error:
        return Finding(AREA, name, False, str(error), remedy, required)
    value = f"{figures['share']:.0%} of {figures['sent']:.0f} images 640×480 at 30 Hz arrived"
    if figures["arrived"]:
        value += f", median {figures['median_ms']:.1f} ms, p95 {figures['p95_ms']:.1f} ms"
    return Finding(AREA, name, figures["share"] >= ENOUGH, value, remedy, required and figures["share"] < TOO_FEW)


def socket_buffers(receive: Path = RECEIVE_BUFFER, send: Path = SEND_BUFFER) -> Iterator[Finding]:
    """The kernel's limits on socket buffers, which images to other machines need."""
    for path, key in ((receive, "net.core.rmem_max"), (send, "net.core.wmem_max")):
        if path.is_file():
            size = int(path.read_text(encoding="ascii"))
            remedy = f"for images between machines: sudo sysctl -w {key}={BUFFER_BYTES * 4}"
            yield Finding(AREA, key, size >= BUFFER_BYTES, f"{size / 1024:.0f} KiB", remedy)
