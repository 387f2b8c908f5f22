"""Action recognition: from skeletons, hands, faces, scene flow and color images to action labels and events."""

from actrec.recognition.events import ActionEvent, EventConfig
from actrec.recognition.predictions import ActionPrediction
from actrec.recognition.recognition_config import RecognitionConfig
from actrec.recognition.recognizer import ActionRecognizer
from actrec.recognition.tracks import Counts

__all__ = ["ActionEvent", "ActionPrediction", "ActionRecognizer", "Counts", "EventConfig", "RecognitionConfig"]
