"""Settings, errors, registries, geometry, files and threads that every part uses."""
