"""rosbag2 bags (mcap or sqlite3), read and written without ROS."""
