"""Action recognition: from skeletons, hands, faces, scene flow and color images to action labels."""

from actrec.recognition.predictions import ActionPrediction, Counts, RecognitionConfig
from actrec.recognition.recognizer import ActionRecognizer

__all__ = ["ActionPrediction", "ActionRecognizer", "Counts", "RecognitionConfig"]
