"""Fine-tuning of a packaged network on the user's own actions (`actrec teach`)."""
