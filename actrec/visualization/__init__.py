"""Images, people and labels for a person to look at."""
