"""Skeleton layouts and the conversions between them."""
