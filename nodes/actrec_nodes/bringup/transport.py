"""Image transport between processes: Fast DDS loses nearly every 640×480 image with its default settings.

`actrec doctor` calls `measure`, which runs `publish` and `subscribe` in two processes.
"""

import array
import contextlib
import fcntl
import multiprocessing
import os
import posixpath
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent import futures
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar
from xml.sax import saxutils

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from actrec.types import NANOSECONDS
from actrec.utils import folders
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes.common.lifecycle import one_line
from actrec_nodes.common.topics import FACE, HANDS, IMAGE_PUBLISHER, IMAGE_SUBSCRIBER, LATCHED, SKELETONS

T = TypeVar("T")

PROFILE = "config/fastdds.xml"

OWN_CHOICE = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
"""Variables by which the user chooses the transport."""

USER_PORTS = range(71, 191, 2)
"""Offsets of a process's first port for messages, of the 250 of a ROS domain; by default 11 (10 is for discovery)."""

FROM_XML = "RMW_FASTRTPS_USE_QOS_FROM_XML"
READER = """    <data_reader profile_name={}>
      <qos>
        <data_sharing>
          <kind>OFF</kind>
        </data_sharing>
      </qos>
      <historyMemoryPolicy>DYNAMIC</historyMemoryPolicy>
    </data_reader>
"""

COPIES = "fastdds"  # folder of temporary files with the profile of each port
PORT = "<port><offsetd3>{}</offsetd3></port>"
LOST = "others no longer reach this process: Fast DDS has replaced its {port} in shared memory, as a process was killed"
LOST_S = 0.5  # interval of this check; two in a row must find it
FOLDER = "/dev/shm"
MAPPED = f"{FOLDER}/fastrtps_port"
SHARED_MEMORY = "          <transport_id>actrec_shm</transport_id>\n"

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
DISCOVERY_S = 10.0
SETTLE_S = 0.5
DOMAINS = range(40, 102)


def prepare(environment: MutableMapping[str, str] = os.environ, images: bool = True, args: Sequence[str] = ()) -> bool:
    """Select our Fast DDS profile unless the user has chosen one, before `rclpy.init`; return whether it was set.

    The process gets a copy of the profile with ports of its own. Fast DDS gives a new process the first free
    ports, which a killed process may have had. For up to 20 s, until its lease ends, others still send to the
    dead process, and create and remove its port in shared memory at each message. They can remove the file under the
    new process, which then never gets a message (eProsima/Fast-DDS #5469). A process that takes no images needs no
    shared memory (`images` false): it cannot lose its port there (`lost_port`).

    The memory of received skeletons, hands and faces is freed. Else Fast DDS keeps all that a queue ever held at once,
    each as large as the largest message so far. `args` of ROS may remap these topics.
    """
    settings = profile_environment(environment)
    if settings:
        port = random.choice(USER_PORTS)
        text = Path(next(iter(settings.values()))).read_text(encoding="utf-8")
        name = f"{port}.xml" if images else f"{port}_udp.xml"
        path = folders.temporary(COPIES) / name
        text = text if images else text.replace(SHARED_MEMORY, "", 1)
        text = text.replace("<rtps>", f"<rtps>{PORT.format(port)}", 1)
        readers = "".join(READER.format(saxutils.quoteattr(name)) for name in _freed(args))
        folders.write_file(path, text.replace("  </profiles>", f"{readers}  </profiles>", 1).encode())
        settings = dict.fromkeys(settings, str(path)) | {FROM_XML: "1"}
    environment.update(settings)
    return bool(settings)


def _freed(args: Sequence[str]) -> list[str]:
    """Return the full names of the topics of people, for a process with these arguments."""
    rules = {name.rpartition(":")[2].lstrip("/"): new for name, _, new in (word.partition(":=") for word in args)}
    space = rules.get("__ns", "").rstrip("/")
    return [posixpath.join(f"{space}/", rules.get(name, name)) for name in (SKELETONS, HANDS, FACE)]


def profile_environment(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that select the profile: none if another middleware or transport is chosen."""
    if "fastrtps" not in environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp"):
        return {}
    *shares, source = folders.installed(PROFILE)
    path = next((str(path) for path in (source, *shares) if path.is_file()), None)
    # Not by the user, if it is ours: the process that started this one has set it.
    chosen = [value for name in OWN_CHOICE if (value := environment.get(name))]
    if any(value != path and not fnmatch(value, f"*/actrec_*{COPIES}*/*.xml") for value in chosen):
        return {}
    if path is None:
        raise ConfigError(f"{PROFILE} is not installed: build the workspace again (make build, or colcon build)")
    # Humble knows the first name, later distributions the second.
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": path, "FASTDDS_DEFAULT_PROFILES_FILE": path}


def remove_orphans(folder: Path = Path(FOLDER)) -> None:
    """Remove the shared memory of Fast DDS that killed processes left, as `fastdds shm clean` does.

    A process that runs holds a lock on the file `…_el` or `…_sl` beside its memory. An empty port without one is of a
    process that died as it made it: a process that opens it waits without end.
    """
    for port in folder.glob("fastrtps_port*[0-9]"):
        with contextlib.suppress(OSError):  # as below
            is_new = time.time() - port.stat().st_mtime < SETTLE_S
            if not port.stat().st_size and not is_new and not port.with_name(f"{port.name}_el").exists():
                port.unlink()
    for lock in [*folder.glob("fastrtps_*_el"), *folder.glob("fastrtps_*_sl")]:
        memory = lock.with_name(lock.name[:-3])
        try:
            if time.time() - lock.stat().st_mtime < SETTLE_S:  # its process may be about to lock it
                continue
            with lock.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in (memory, folder / f"sem.{memory.name}_mutex", lock):
                    path.unlink(missing_ok=True)
        except OSError:  # in use, another user's, or removed meanwhile
            continue


def lost_port(process: Path = Path("/proc/self")) -> str | None:
    """Return the port in shared memory at which a process waits, but which others no longer reach; None without one.

    If a process is killed while it writes to a port, all others make that port again, and Fast DDS may then replace
    the file of a process that lives. It gets no further message from this machine, and does not notice.
    """
    lost, held = set(), set()
    with contextlib.suppress(OSError):  # only Linux has these files
        places = (line.split(maxsplit=5)[5] for line in (process / "maps").read_text().splitlines() if MAPPED in line)
        names = {place.rpartition("/")[2].rstrip() for place in places}
        lost = {name.split()[0] for name in names if " " in name} - names  # "NAME (deleted)"
        for link in (process / "fd").iterdir() if lost else ():
            with contextlib.suppress(OSError):  # just closed, as the one of this folder
                held.add(os.readlink(link).rpartition("/")[2].removesuffix(" (deleted)"))  # its lock may go as well
    return min((name for name in lost if f"{name}_el" in held), default=None)


@contextlib.contextmanager
def reached(on_lost: Callable[[str], None]) -> Iterator[None]:
    """Call `on_lost` once, in another thread, with the port that this process has lost (`lost_port`)."""
    over = threading.Event()

    def follow() -> None:
        before, seen = None, 0.0
        while not over.wait(LOST_S):
            with contextlib.suppress(OSError):
                changed = os.stat(FOLDER).st_mtime
                if changed == seen and before is None:  # no file has come or gone
                    continue
                seen = changed
            port = lost_port()
            if port is not None and port == before:
                on_lost(port)
                return
            before = port

    thread = threading.Thread(target=follow, name="reached", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(seconds: float = 2.0, with_profile: bool = True) -> dict[str, float]:
    """Send 640×480 color images at 30 Hz from one process to another on this machine.

    The transport is the graph's (the user's or our profile), or Fast DDS's default.

    Returns:
        sent, arrived (images), share (0..1), median_ms, p95_ms (publish to callback; NaN if nothing arrived).

    Raises:
        DeviceError: The two processes did not find each other, or one failed.
    """
    environment = dict(os.environ)
    folders.prepare_ros_logs(environment)
    if with_profile:
        environment.update(profile_environment(environment))
    else:
        for name in OWN_CHOICE:
            environment.pop(name, None)
    # Not the domain of a running graph.
    own = environment.get("ROS_DOMAIN_ID", "0")
    environment["ROS_DOMAIN_ID"] = random.choice([str(domain) for domain in DOMAINS if str(domain) != own])
    others, context = multiprocessing.active_children(), multiprocessing.get_context("spawn")
    # A pool for each: in Python 3.11 a pool that starts a second process may not notice its end.
    with futures.ProcessPoolExecutor(1, context) as one, futures.ProcessPoolExecutor(1, context) as two:
        subscriber = one.submit(_in_child, environment, subscribe, seconds)
        publisher = two.submit(_in_child, environment, publish, seconds)
        try:
            works: list[futures.Future[Any]] = [subscriber, publisher]
            for ended in futures.wait(works, 2 * DISCOVERY_S + seconds, futures.FIRST_EXCEPTION).done:
                ended.result()
            latencies, sent = sorted(subscriber.result(0)), publisher.result(0)
        except futures.TimeoutError:
            raise DeviceError(
                "the image transport check did not end: is another middleware set (RMW_IMPLEMENTATION)?"
            ) from None
        except (DeviceError, futures.BrokenExecutor) as error:
            raise DeviceError(f"the image transport check failed: {error}") from error
        finally:
            for process in set(multiprocessing.active_children()) - set(others):
                process.terminate()  # else the pool waits for it
    return {
        "sent": sent,
        "arrived": len(latencies),
        "share": len(latencies) / sent,
        "median_ms": statistics.median(latencies) if latencies else float("nan"),
        "p95_ms": latencies[int(0.95 * (len(latencies) - 1))] if latencies else float("nan"),
    }


def _in_child(environment: dict[str, str], work: Callable[[Node, float], T], seconds: float) -> T:
    """Return what `work` returns with a node of its own, in a new process with this environment."""
    os.environ.clear()
    os.environ.update(environment)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # else `measure` cannot terminate it
        node = rclpy.create_node(f"actrec_transport_{work.__name__}")
        try:
            return work(node, seconds)
        finally:
            node.destroy_node()
            rclpy.try_shutdown()
    except Exception as error:  # of any kind; some of ROS's cannot be sent to the other process
        raise DeviceError(one_line(error)) from None


def publish(node: Node, seconds: float) -> int:
    """Publish images as soon as there is a subscriber, then on `transport_check/done`; return their number."""
    images = node.create_publisher(Image, "transport_check/image", IMAGE_PUBLISHER)
    done = node.create_publisher(Empty, "transport_check/done", LATCHED)
    _wait(node, lambda: images.get_subscription_count() > 0 and done.get_subscription_count() > 0)
    pixels = array.array("B", bytes(WIDTH * HEIGHT * 3))
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3, data=pixels)
    count = round(seconds * RATE_HZ)
    start = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, start + index / RATE_HZ - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.monotonic_ns(), NANOSECONDS)
        images.publish(message)
    time.sleep(SETTLE_S)  # the last image may still be on its way
    done.publish(Empty())
    _wait(node, lambda: done.get_subscription_count() == 0)
    return count


def subscribe(node: Node, seconds: float) -> list[float]:
    """Return the latency of each image in milliseconds until `transport_check/done`."""
    latencies: list[float] = []
    finished: list[Empty] = []

    def take(message: Image) -> None:
        stamp = message.header.stamp
        latencies.append((time.monotonic_ns() - stamp.sec * NANOSECONDS - stamp.nanosec) / 1e6)

    node.create_subscription(Image, "transport_check/image", take, IMAGE_SUBSCRIBER)
    node.create_subscription(Empty, "transport_check/done", finished.append, LATCHED)
    _wait(node, lambda: bool(finished), 2 * DISCOVERY_S + seconds)
    return latencies


def _wait(node: Node, condition: Callable[[], bool], timeout_s: float = DISCOVERY_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DeviceError(
                "two processes on this machine do not find each other: a firewall, or ROS_LOCALHOST_ONLY?"
            )
        rclpy.spin_once(node, timeout_sec=0.02)
