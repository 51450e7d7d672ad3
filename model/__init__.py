"""Pixels in, pixels out: the conditional diffusion cascade. No HTTP, no cache, no globals."""
