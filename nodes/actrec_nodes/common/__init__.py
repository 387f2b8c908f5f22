"""Code that several nodes share."""
