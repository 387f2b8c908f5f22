"""rosbag2 bags (mcap or sqlite3), read and written without ROS."""

from pathlib import Path

from actrec.recordings import Recording, RecordingConfig, existing_path


def open_bag(path: str | Path, config: RecordingConfig) -> Recording:
    """Open a bag: its images, or its skeletons if it has no images.

    Raises:
        DeviceError: The bag does not exist.
        InputError: The bag is corrupt, or holds neither images nor skeletons.
        ConfigError: A topic is absent, or several match and none is chosen.
    """
    # Imported here: a recorder that only writes bags needs no OpenCV.
    from actrec.recordings.rosbag.bag_reader import IMAGE_TYPES, SKELETONS, SkeletonBagRecording, message_types
    from actrec.recordings.rosbag.image_bag import BagRecording

    path = existing_path(path)
    types = message_types(path)
    return (SkeletonBagRecording if SKELETONS in types and not types & IMAGE_TYPES else BagRecording)(path, config)
