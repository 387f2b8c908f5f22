"""Readers of recordings: bags, colour and depth folders, videos, skeleton files; and the bag writer."""
