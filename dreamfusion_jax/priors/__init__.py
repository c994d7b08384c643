"""The priors that score distillation can follow."""
