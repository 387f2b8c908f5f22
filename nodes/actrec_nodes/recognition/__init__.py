"""Parts of the recognizer node: its inputs, and its action server."""
