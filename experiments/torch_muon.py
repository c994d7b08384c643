"""Muon in PyTorch, for matrices and convolutions in single precision.

`torch.optim.Muon` takes matrices alone and multiplies in bfloat16, in which a processor without
units for it takes eighteen times as long.
"""

import torch

from dreamfusion_jax.toybox.training.data import MOMENTUM, MUON_RMS

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Of the polynomial a x + b x^3 + c x^5, which takes singular values near to one (Jordan 2024)."""

_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized by the iteration of Newton and Schulz, as `optax.contrib.muon`.

    Nesterov's momentum of a matrix [out, in], or of a convolution [out, in, h, w] as a matrix of
    in h w columns, loses its singular values and is scaled to the root mean square that Adam's
    updates have (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).

    Args:
        params: Tensors of two or four axes.
        lr: Learning rate.
        weight_decay: Share of the weights that is taken away, times the learning rate.
    """

    def __init__(self, params, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Changes the weights by their gradients."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if not (state := self.state[weight]):
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(weight)
                state["step"] += 1
                mean = state["mean"].lerp_(weight.grad, 1 - MOMENTUM)
                now, next_one = (1 - MOMENTUM ** (state["step"] + i) for i in (0, 1))
                ahead = MOMENTUM / next_one * mean + (1 - MOMENTUM) / now * weight.grad
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalized(ahead), alpha=-group["lr"])


def orthogonalized(x: torch.Tensor) -> torch.Tensor:
    """A tensor of two or four axes with singular values near to one, scaled as Adam's updates."""
    matrix = x.flatten(1)
    if tall := matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    matrix = matrix / (matrix.norm() + 1e-8)
    # All iterations are polynomials of the small product G = X X^T: that is half of the work.
    gram, product = matrix @ matrix.T, torch.eye(len(matrix))
    for _ in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
        factor.diagonal().add_(_A)
        gram, product = factor @ gram @ factor, factor @ product
    found = product @ matrix * (MUON_RMS * max(matrix.shape) ** 0.5)
    return (found.T if tall else found).reshape(x.shape)
