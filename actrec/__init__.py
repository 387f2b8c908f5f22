"""actrec: from an RGB-D camera to action labels. The core, usable with no ROS."""

__version__ = "0.1.0"
