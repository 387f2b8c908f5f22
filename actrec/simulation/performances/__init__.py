"""Random performances of everyday and other actions by the procedural actor."""
