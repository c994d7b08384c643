"""Diffusion models as score distillation uses them, the texts they read, and sampling from them."""
