"""Pairs of imagery and map tiles on disk, and the offset between them."""
