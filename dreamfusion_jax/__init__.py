"""DreamFusion in JAX and Flax: text to 3D by score distillation sampling.

Axis letters of the shape annotations, the same in every file:
    H, W image height and width; R rays; S samples or intervals along a ray; V views;
    B batch; N text length; D feature width; C channels; L levels or frequencies.
"""
