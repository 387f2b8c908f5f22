"""Intel RealSense cameras, through librealsense."""
