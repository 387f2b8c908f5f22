"""Label the people in a video, without ROS: print each action, and write the video with skeletons and labels.

`actrec label` does the same with more options. A bag or a folder of color and depth is read in the same way.

Usage: python examples/label_video.py VIDEO [OUT.mp4]
"""

import contextlib
import sys
from pathlib import Path

from actrec.recognition import ActionEvent
from actrec.recognition.offline import OfflineRecognizer
from actrec.recordings import open_recording
from actrec.recordings.video import VideoWriter
from actrec.visualization.labeled_video import labeled_image


def main(video: Path, out: Path) -> None:
    with open_recording(video) as recording, contextlib.closing(VideoWriter(out)) as writer:
        with OfflineRecognizer(has_depth=False) as recognizer:
            recognizer.find_gravity(recording.frames())
            for frame in recording.frames():
                labeled = recognizer.process(frame)
                writer.write(labeled_image(labeled), frame.stamp_ns)
                show(labeled.events)
            show(recognizer.finish())
    print(f"written: {out}")


def show(events: list[ActionEvent]) -> None:
    for event in events:
        if event.kind == "ended":
            span = f"{event.start_ns / 1e9:6.1f} to {event.end_ns / 1e9:.1f} s"
            print(f"{span}  {event.body_id} {event.label} {event.confidence:.2f}, {event.position[2]:.1f} m away")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "labeled.mp4"))
