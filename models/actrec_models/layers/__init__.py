"""Building blocks that the networks share."""
