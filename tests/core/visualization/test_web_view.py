"""The page of `actrec view --web` shows image, labels, events and figures, and says when they are old."""

import base64
import contextlib
import fcntl
import http.client
import itertools
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from dataclasses import replace
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from actrec.cli import main
from actrec.cli import view as view_command
from actrec.features.clips import example_clip
from actrec.recognition import ActionEvent
from actrec.recognition.offline import OfflineRecognizer
from actrec.types import Body, Intrinsics
from actrec.utils.errors import DeviceError
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import LiveView, Snapshot
from actrec.visualization.web import WebView, state
from actrec.visualization.web.explanation_images import ExplanationImages
from tests.tiny_model import FRAMES, write_tiny

CAMERA = Intrinsics(320, 240, 260.0, 260.0, 159.5, 119.5)
LABEL = "pick up <b>a box</b>"


def snapshot(number=0, label=LABEL, people=1, stamp_ns=5_000_000_000):
    """Return people two metres before a camera whose image is green."""
    color, depth = np.full((240, 320, 3), (40, 160, 60), np.uint8), np.full((240, 320), 3.0, np.float32)
    bodies = []
    for person in range(people):
        zigzag = np.stack([0.2 * np.sin(np.arange(25)), 0.06 * np.arange(25) - 0.7, np.full(25, 2.0)], axis=1)
        positions = (zigzag + np.array([0.6 * person, 0.0, 0.0])).astype(np.float32)
        pixels = positions[:, :2] / positions[:, 2:] * CAMERA.fx + [CAMERA.cx, CAMERA.cy]
        scores = np.ones(25, np.float32)
        bodies.append(Body(f"body_{person + 1}", "kinect_v2_25", positions, pixels.astype(np.float32), scores))
    captions = {body.body_id: Caption(label, 0.91) for body in bodies}
    return Snapshot(
        stamp_ns + number * 100_000_000, bodies, captions=captions, color=color, depth=depth, intrinsics=CAMERA
    )


def event(event_id=1, kind="began", label=LABEL):
    times, nan = (3_000_000_000, 4_500_000_000, 4_600_000_000), (float("nan"),) * 3
    return ActionEvent(event_id, kind, "body_1", label, 3, 0.93, *times, nan, "tiny")


@pytest.fixture
def view():
    with WebView(port=0, source="running graph") as view:
        yield view


def get(view, path, host=""):
    """Return status and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", int(view.url.split(":")[2].strip("/")), timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def update(view, query="after=-1"):
    """Return the parts of an update: state, image and cloud."""
    status, body = get(view, f"/update?{query}")
    assert status == 200, body
    lengths = struct.unpack("<3I", body[:12])
    ends = [12, *itertools.accumulate(lengths, initial=12)][1:]
    text, image, cloud = (body[start:end] for start, end in itertools.pairwise(ends))
    return json.loads(text), image, cloud


def test_update_has_people_labels_events_and_images(view):
    view.show(snapshot(people=3))
    view.label(5_000_000_000, "body_2", Caption("unknown", 0.4), 0.08, "tiny")
    view.event(event())
    view.figures({"device": "CPU"})
    shown, image, cloud = update(view, "after=-1&cloud")
    assert [(p["id"], p["label"], p["known"]) for p in shown["people"]] == [
        ("body_1", LABEL, True), ("body_2", "unknown", False), ("body_3", LABEL, True)
    ]  # fmt: skip
    assert len(shown["people"][0]["joints"]) == 25 and len(shown["people"][0]["bones"]) == 24
    assert shown["events"][0] | {"label": LABEL, "kind": "began", "start": 3.0} == shown["events"][0]
    assert shown["figures"]["device"] == "CPU" and shown["figures"]["latency_ms"] == 80.0
    assert shown["figures"]["model"] == "tiny" and shown["size"] == [320, 240] and not shown["stale"]
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (240, 320, 3) and abs(decoded[2, 2].astype(int) - [60, 160, 40]).max() < 12
    points = np.frombuffer(cloud, [("xyz", "<i2", 3), ("rgb", "u1", 3)])
    assert 1000 < len(points) <= state.CLOUD_POINTS and (points["xyz"][:, 2] == 3000).all()
    assert (points["rgb"] == [40, 160, 60]).all() and update(view)[2] == b""


def test_update_people_without_joints_image_or_depth_are_shown(view):
    missing = snapshot(people=2)
    missing.color = missing.depth = None
    missing.bodies[0].positions[:] = np.nan
    missing.captions["body_1"] = Caption("wave", float("nan"))
    view.show(missing)
    shown, image, cloud = update(view, "after=-1&cloud")
    assert (image, cloud) == (b"", b"") and shown["people"][0]["confidence"] is None
    assert shown["people"][0]["joints"] == [None] * 25 and shown["people"][0]["bones"] == []
    view.show(Snapshot(6_000_000_000))
    assert update(view)[0]["people"] == []


def test_update_4k_image_is_reduced(view):
    large = snapshot()
    large.color = np.zeros((2160, 3840, 3), np.uint8)
    large.depth = None
    view.show(large)
    assert cv2.imdecode(np.frombuffer(update(view)[1], np.uint8), cv2.IMREAD_COLOR).shape == (720, 1280, 3)


def test_update_ended_event_replaces_its_begin_and_old_ones_are_dropped(view):
    view.event(event())
    view.event(event(kind="ended"))
    assert update(view)[0]["stamp"] == 4.6, "events come without images too"
    assert [each["kind"] for each in update(view)[0]["events"]] == ["ended"]
    view.event(event(2))
    view.event(event(1, label="wave"))
    kinds = [(each["label"], each["kind"]) for each in update(view)[0]["events"]]
    assert kinds == [(LABEL, "ended"), (LABEL, "ended"), ("wave", "began")], "the graph was started again"
    for number in range(2, 400):
        view.event(event(number))
    assert len(update(view)[0]["events"]) == state.EVENTS


def test_state_is_stale_without_news_and_unwatched_without_requests():
    now = 0.0
    kept = state.ViewState(clock=lambda: now)
    assert not kept.is_watched, "no browser: images are not received"
    kept.show(snapshot())
    kept.wait(-1, 0.0)
    assert kept.is_watched and not json.loads(kept.update(False)[12:].partition(b"\xff")[0])["stale"]
    now = 3.5
    assert not kept.is_watched, "a closed browser costs nothing"
    shown = json.loads(kept.update(False)[12:].partition(b"\xff")[0])
    assert shown["stale"] and shown["age_s"] == 3.5


def test_update_invalid_people_do_not_end_the_view(view):
    wrong = snapshot()
    wrong.bodies[0].layout = "hand_21"
    view.show(wrong)
    assert get(view, "/update?after=-1")[0] == 500
    view.show(snapshot(1))
    assert update(view)[0]["people"][0]["id"] == "body_1"


def test_view_serves_several_browsers_and_survives_a_closed_one(view):
    left = socket.create_connection(("127.0.0.1", int(view.url.split(":")[2].strip("/"))))
    left.send(b"GET /update?after=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    left.close()
    view.show(snapshot())
    numbers = []
    browsers = [threading.Thread(target=lambda: numbers.append(update(view)[0]["number"])) for _ in range(6)]
    for browser in browsers:
        browser.start()
    for browser in browsers:
        browser.join()
    assert numbers == [1] * 6


def test_view_files_are_local_and_other_sites_are_refused(view):
    status, page = get(view, "/")
    assert status == 200 and b"page.js" in page and b"//" not in page.replace(b"<!doctype", b"")
    for name in ("page.js", "space.js", "page.css"):
        status, text = get(view, f"/{name}")
        assert status == 200 and b"http" not in text, "nothing is fetched from elsewhere"
    assert get(view, "/../state.py")[0] == get(view, "/nothing")[0] == 404
    assert get(view, "/update?after=x")[0] == 400
    for host in ("attacker.example", "attacker.example:80", "127.attacker.example", "127.0.0.1.nip.io:8080"):
        assert get(view, "/", host=host)[0] == get(view, "/update", host=host)[0] == 403
    for host in ("localhost", "127.0.0.1:8080", "127.1.2.3", "[::1]", "[::1]:8080"):
        assert get(view, "/", host=host)[0] == 200
    assert get(view, "/", host="localhost:1")[0] == 200


def test_view_explanation_images_are_served_and_follow_changes(tmp_path):
    folder = tmp_path / "why"
    with pytest.raises(DeviceError, match="there is no folder '.*why': write the images first: actrec explain"):
        ExplanationImages(folder)
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "notes.txt").write_text("not an image")
    with WebView(port=0, explanation=ExplanationImages(folder)) as view:
        assert update(view)[0]["explanation"] == {"folder": str(folder), "files": []}
        name = "by class & time.png"
        (folder / name).write_bytes(b"first")
        (listed,) = update(view)[0]["explanation"]["files"]
        assert listed["name"] == name and get(view, f"/explanation/{quote(name)}?1") == (200, b"first")
        for other in ("notes.txt", "nothing.png", "../secret.png", "%2e%2e%2fsecret.png", "../why/notes.txt", ""):
            assert get(view, f"/explanation/{other}")[0] == 404, other
        assert get(view, f"/explanation/{quote(name)}", host="attacker.example")[0] == 403
        os.utime(folder / name, ns=(0, listed["version"] + 1))
        assert update(view)[0]["explanation"]["files"][0]["version"] == listed["version"] + 1
        shutil.rmtree(folder)
        assert update(view)[0]["explanation"]["files"] == [] and get(view, f"/explanation/{quote(name)}")[0] == 404
    with WebView(port=0) as view:
        assert update(view)[0]["explanation"] is None and get(view, "/explanation/x.png")[0] == 404


def test_view_taken_port_or_foreign_address_is_one_line(view):
    port = int(view.url.split(":")[2].strip("/"))
    with pytest.raises(DeviceError, match=f"port {port} is taken, .* --port {port + 1}"):
        WebView(port=port)
    with pytest.raises(DeviceError, match="cannot listen on --host 192.0.2.1 --port 0 .*address of this machine"):
        WebView("192.0.2.1", 0)
    with pytest.raises(DeviceError, match="--port is 70000, expected 0 to 65535"):
        WebView(port=70000)


def test_view_command_serves_a_camera_and_ends(capsys, monkeypatch):
    monkeypatch.setattr(WebView, "wants_images", True)
    options = ["--driver-option", "width=160", "--driver-option", "height=120", "--driver-option", "duration=0.5"]
    options += ["--driver-option", "realtime=false"]  # else a busy machine may miss all of them
    assert main(["view", "--web", "--port", "0", "--driver", "simulated", *options]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("view: http://127.0.0.1:") and "frames shown" in output.err
    assert not output.err.startswith("0 ")


class Shown(LiveView):
    """A view that records its calls."""

    def __init__(self):
        self.snapshots, self.labels, self.events = [], [], []

    def show(self, snapshot):
        self.snapshots.append(snapshot)

    def label(self, stamp_ns, body_id, caption, latency_s, model):
        self.labels.append((body_id, caption.label, model))

    def event(self, event):
        self.events.append((event.kind, event.label))


def test_update_of_a_recording_that_starts_again_shows_its_events(view):
    late = 55_000_000_000
    view.show(snapshot(stamp_ns=late))
    view.event(replace(event(), start_ns=late, end_ns=late, stamp_ns=late))
    assert update(view)[0]["stamp"] == 55.0
    view.event(replace(event(kind="ended"), start_ns=late, end_ns=late))  # as its stamps jump back
    view.event(event(2))
    view.show(snapshot())
    shown = update(view)[0]
    assert shown["stamp"] == 5.0
    assert [(each["kind"], each["start"]) for each in shown["events"]] == [("ended", 55.0), ("began", 3.0)]


def test_update_label_of_a_hand_is_its_persons(view):
    """A model of hands labels body_1_left and body_1_right."""
    view.show(snapshot(label=""))
    for side, caption in (("left", Caption("swipe", 0.6)), ("right", Caption("unknown", 0.9))):
        view.label(5_000_000_000, f"body_1_{side}", caption, None, "hands")
    (person,) = update(view)[0]["people"]
    assert (person["label"], person["confidence"]) == ("swipe", 0.6)


@pytest.mark.parametrize("confidence", [math.nan, math.inf])
def test_update_confidence_that_is_no_number_is_null(view, confidence):
    view.show(snapshot())
    view.event(replace(event(), confidence=confidence))
    view.label(5_000_000_000, "body_1", Caption("wave", confidence), None, "tiny")
    shown = update(view)[0]
    assert shown["events"][0]["confidence"] is None and shown["people"][0]["confidence"] is None


def test_view_command_driver_shows_labels_and_events_without_a_graph(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(view_command, "_open", lambda _: shown)
    settings = ("actions=[wave]", "width=320", "height=240", "fps=8", "duration=9", "realtime=false")
    options = [word for setting in settings for word in ("--driver-option", setting)]
    assert main(["view", "--web", "--driver", "simulated", "--model", "joint_tcn_open", *options]) == 0
    assert len(shown.snapshots) > 60 and len(shown.snapshots[-1].bodies) == 1
    assert ("body_1", "wave", "joint_tcn_open") in shown.labels
    assert ("began", "wave") in shown.events
    assert any(each.captions.get("body_1", Caption()).label == "wave" for each in shown.snapshots)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--web", "--model", "joint_tcn_open"], "--model needs --driver: a running graph has its own model"),
        (
            ["--web", "--backend", "onnxruntime"],
            "--backend needs --driver: the nodes of a running graph have their own",
        ),
        (["--web", "--out", "x.rrd"], "--web excludes --out and --connect"),
        (["--port", "8000"], "--host and --port need --web"),
        (["--explain", "why"], "--explain needs --web"),
    ],
)
def test_view_command_web_invalid_use_exits_2(arguments, message, capsys):
    assert main(["view", *arguments]) == 2
    assert message in capsys.readouterr().err


class Chromium:
    """A headless Chromium with one page, driven over its debugging pipe."""

    def __init__(self, program, folder, url):
        ends = [*os.pipe(), *os.pipe()]
        read, self._write, self._read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        for end in ends:
            os.close(end)
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
        ]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={folder}", "--window-size=1200,800", url]
        script = f'exec "$@" 3<&{read} 4>&{write}'
        null = subprocess.DEVNULL
        command = ["bash", "-c", script, "-", *command]
        self._process = subprocess.Popen(command, pass_fds=(read, write), stdout=null, stderr=null)
        os.close(read)
        os.close(write)
        self._sent, self._buffer, self._session = 0, b"", None
        pages = []
        while not pages:
            targets = self.call("Target.getTargets")["targetInfos"]
            pages = [target["targetId"] for target in targets if target["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0], flatten=True)
        self._session = attached["sessionId"]
        size = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method, **parameters):
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                got = os.read(self._read, 1 << 20)
                assert got, "Chromium has ended"
                self._buffer += got
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression):
        deadline = time.monotonic() + 60
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, self.evaluate("document.body.innerText")
            time.sleep(0.1)

    def screenshot(self):
        data = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)


@contextlib.contextmanager
def opened(view, folder):
    """Open the page in headless Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium: apt install chromium")
    with contextlib.closing(Chromium(program, folder, view.url)) as page:
        yield page


@pytest.fixture
def page(view, tmp_path):
    """Open the page in headless Chromium."""
    with opened(view, tmp_path) as page:
        yield page


def test_page_in_chromium_shows_labels_events_and_image_until_they_are_old(view, page):
    page.wait_for("document.querySelector('#status')?.textContent === 'no data yet'")
    stop = threading.Event()

    def feed():
        for number in itertools.count():
            # Labels first: the page may ask after any of the three.
            view.label(0, "body_1", Caption(LABEL, 0.91), 0.05, "tiny")
            view.label(0, "body_2", Caption("unknown", 0.3), 0.05, "tiny")
            view.show(snapshot(number, people=2))
            if stop.wait(0.1):
                return

    view.event(event(kind="ended"))
    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        page.wait_for("document.querySelector('#status').textContent === 'live' && document.images[0].naturalWidth")
        labels = page.evaluate("[...document.querySelectorAll('.label')].map((each) => each.textContent)")
        assert labels == [LABEL, "unknown"], "text, not markup"
        classes = page.evaluate("[...document.querySelectorAll('.person')].map((each) => each.className)")
        assert classes == ["person", "person unknown"] and "tiny" in page.evaluate(
            "document.querySelector('#figures').innerText"
        )
        events = page.evaluate("document.querySelector('#events').innerText")
        assert LABEL in events and "1.5 s" in events and "93 %" in events
        assert page.evaluate("document.querySelector('.track i').textContent") == LABEL
        shot = page.screenshot()
    finally:
        stop.set()
        feeder.join()
    assert shot.shape == (800, 1200, 3)
    assert (abs(shot[:500, :700] - [40, 160, 60]).max(axis=2) < 20).mean() > 0.5, "the camera's image is on the left"
    orange, blue = ((abs(shot[500:, 720:] - color).max(axis=2) < 20).sum() for color in ([255, 149, 5], [0, 183, 255]))
    assert min(orange, blue) > 200, "both skeletons are seen in the 3-D view"
    page.wait_for("document.querySelector('#status').textContent === 'old'")
    assert "has the graph stopped?" in page.evaluate("document.querySelector('#notice').textContent")


@pytest.mark.slow
def test_page_in_chromium_shows_the_images_that_explain_writes(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnx")
    why, walk = tmp_path / "why", tmp_path / "walk.npz"
    why.mkdir()
    model = write_tiny(tmp_path / "tiny")
    positions = example_clip(model.inputs, 4 * FRAMES)["bodies"]
    np.savez(walk, positions=positions, stamps_ns=np.arange(4 * FRAMES) * 100_000_000, layout="kinect_v2_25")
    (tmp_path / "profile").mkdir()
    with WebView(port=0, explanation=ExplanationImages(why)) as view, opened(view, tmp_path / "profile") as page:
        page.wait_for("document.querySelector('#explanation')?.innerText.includes('No images yet')")
        assert main(["explain", str(model.path), str(walk), "--out", str(why)]) == 0
        page.wait_for("document.querySelector('#explanation img')?.naturalWidth > 100")
        assert page.evaluate("document.querySelector('#explanation figcaption').textContent") == "importance.png"
        assert str(why) in page.evaluate("document.querySelector('#explanation h2').textContent")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        shot = page.screenshot()
        assert (shot.min(axis=2) > 240).mean() > 0.1, "the figure's white ground is seen below the view"


def test_view_command_driver_shows_the_end_of_an_action_that_is_cut_off(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(view_command, "_open", lambda _: shown)
    monkeypatch.setattr(OfflineRecognizer, "finish", lambda self: [event(kind="ended")])
    settings = ("width=160", "height=120", "duration=0.3", "realtime=false")
    options = [word for setting in settings for word in ("--driver-option", setting)]
    assert main(["view", "--web", "--driver", "simulated", *options]) == 0
    assert shown.events == [("ended", LABEL)]
