"""Simulated RGB-D camera: rendered actors with exact joints, depth and scene flow."""
