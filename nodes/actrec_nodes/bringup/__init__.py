"""Starts the graph, in one process or several."""
