"""The networks and their training, in PyTorch."""

from actrec_models import data as data  # registers the rendered dataset
from actrec_models.networks import create, list_models

__all__ = ["create", "list_models"]
