"""Class fields to map objects, generalised and drawn."""
