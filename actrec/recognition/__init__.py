"""Action recognition: from skeletons, hands, faces, scene flow and color images to action labels."""

from actrec.recognition.recognizer import ActionPrediction, ActionRecognizer, Counts, RecognitionConfig

__all__ = ["ActionPrediction", "ActionRecognizer", "Counts", "RecognitionConfig"]
