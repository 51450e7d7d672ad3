"""How good a drawn map is: metrics on uint8 images."""
