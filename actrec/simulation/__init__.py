"""A procedurally rendered RGB-D actor: exact joints, depth and scene flow, from pixels to label with no camera."""
