"""HTTP: one module per kind of answer."""
