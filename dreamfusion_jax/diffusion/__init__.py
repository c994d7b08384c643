"""The Flax diffusion models and the reader of their weights (diffusers layout)."""
