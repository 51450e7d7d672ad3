"""SGDM, the scale-guided diffusion model of C2GM, at any width."""
