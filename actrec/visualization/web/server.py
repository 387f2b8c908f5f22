"""HTTP server of the live view, of the standard library: one page, its files, and the newest data."""

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from actrec.recognition import ActionEvent
from actrec.utils.errors import DeviceError
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import LiveView, Snapshot
from actrec.visualization.web.explanation_images import ExplanationImages
from actrec.visualization.web.state import ViewState

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/space.js": ("space.js", "text/javascript; charset=utf-8"),
}
EXPLANATION = "/explanation/"
WAIT_S = 1.0  # wait of a request for newer data; then it gets the old one, with its age
CLIENT_S = 20.0  # a browser that takes nothing for this long is disconnected

logger = logging.getLogger(__name__)


class WebView(LiveView):
    """Serves the page of the live view until it is closed; a context manager.

    Args:
        host: Address to listen on; 127.0.0.1 is reachable from this machine only.
        port: TCP port; 0 for a free one.
        source: Name of the source, for the page.
        explanation: Images below the live view; None for none.

    Attributes:
        state: The data that the page shows.
        url: Address for a browser on this machine.

    Raises:
        DeviceError: The port is taken, or the address is not this machine's.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 8080, source: str = "", explanation: ExplanationImages | None = None
    ):
        self.state = ViewState(source, explanation=explanation)
        try:
            self._server = _Server((host, port), self.state)
        except OSError as error:
            raise DeviceError(_why_not(host, port, error)) from error
        except OverflowError as error:
            raise DeviceError(f"--port is {port}, expected 0 to 65535") from error
        shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="web", daemon=True)
        self._thread.start()

    def __enter__(self) -> "WebView":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def wants_images(self) -> bool:
        """Whether a browser shows the page."""
        return self.state.is_watched

    def show(self, snapshot: Snapshot) -> None:
        """Show the images and people of one instant."""
        self.frames += snapshot.color is not None
        self.state.show(snapshot)

    def label(self, stamp_ns: int, body_id: str, caption: Caption, latency_s: float | None, model: str) -> None:
        """Show a label and count it."""
        self.state.label(body_id, caption, latency_s, model)

    def event(self, event: ActionEvent) -> None:
        """Show an event in the timeline."""
        self.state.event(event)

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Show figures of the recognizer."""
        self.state.figures(figures)

    def close(self) -> None:
        """Stop serving. Safe to call twice."""
        self.state.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows, two servers would share the port
    block_on_close = False  # a browser may hold its connection open
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], state: ViewState):
        self.state = state
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        # From another site, a browser could otherwise read the camera under a name that resolves to 127.0.0.1.
        self.is_local = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("the request of %s has failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = CLIENT_S
    server: _Server

    def do_GET(self) -> None:
        if self.server.is_local and not _is_local_name(self.headers.get("Host", "")):
            self._send(HTTPStatus.FORBIDDEN, b"This view is for this machine only; see --host.\n", "text/plain")
            return
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            self._send(HTTPStatus.OK, _file(name), kind)
        elif url.path == "/update":
            self._send_update(parse_qs(url.query, keep_blank_values=True))
        elif (image := self.server.state.explanation_image(unquote(url.path.removeprefix(EXPLANATION)))) is not None:
            self._send(HTTPStatus.OK, image, "image/png")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"Not found\n", "text/plain")

    def _send_update(self, query: Mapping[str, list[str]]) -> None:
        try:
            after = int(query.get("after", ["-1"])[0])
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, b"after is not a number\n", "text/plain")
            return
        state = self.server.state
        state.wait(after, WAIT_S)
        try:
            body = state.update("cloud" in query)
        except Exception as error:  # an invalid snapshot must not end the view
            logger.warning("a snapshot cannot be shown: %s", error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"the snapshot cannot be shown\n", "text/plain")
            return
        self._send(HTTPStatus.OK, body, "application/octet-stream")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # the browser was closed
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' blob:")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests for debugging only."""
        logger.debug(format, *args)


@cache
def _file(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def _is_local_name(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback  # not 127.example.com, which anybody can own
    except ValueError:
        return name == "localhost"


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken, perhaps by another view; give a free one: --port {port + 1}, or --port 0"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this user; give one above 1023: --port 8080"
    return f"cannot listen on --host {host} --port {port} ({error.strerror or error}); give an address of this machine"
