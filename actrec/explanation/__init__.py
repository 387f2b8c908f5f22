"""Explanations of labels: the joints and times that a label rests on, and the figures of the networks' papers."""
