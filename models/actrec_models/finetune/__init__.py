"""`actrec teach`: fine-tunes a shipped network on a few recordings."""
