"""Imagery of other sensors than a colour camera's, and how the map network comes to see it."""
