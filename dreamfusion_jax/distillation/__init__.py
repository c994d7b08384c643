"""From a rendering to an update: score distillation, regularizers, optimizers, the step."""
