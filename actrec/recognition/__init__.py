"""From tracked people to action labels."""
