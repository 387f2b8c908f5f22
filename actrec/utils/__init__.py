"""Settings, errors, registries, geometry, files and threads."""
