"""How good a generated map is: metrics on uint8 images."""
