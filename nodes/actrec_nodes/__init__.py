"""The ROS 2 side of actrec: one file a node. A callback converts, calls the core and publishes."""

from actrec.utils import single_threaded_blas

single_threaded_blas()  # every node's process imports this first
