"""What `actrec doctor` looks at: software, hardware, model packages, image transport."""

from actrec.diagnosis.finding import Finding

__all__ = ["Finding"]
