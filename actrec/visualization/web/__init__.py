"""Page of the live view: `WebView` serves it."""

from actrec.visualization.web.server import WebView

__all__ = ["WebView"]
