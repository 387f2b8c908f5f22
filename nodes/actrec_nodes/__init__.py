"""The ROS 2 side of actrec: one file a node. A callback converts, calls the core and publishes."""
