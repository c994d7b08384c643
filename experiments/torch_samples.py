"""What a prior in training can do, measured and drawn with PyTorch alone."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from transformers import CLIPTokenizer

from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.training.data import Batches, Settings, grid_captions

GRID_VIEWS = ("front view", "left view", "back view", "right view", "overhead view")
TIMES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_FIXED = 2**30
"""A step that no training reaches; its batch is the one that is measured on."""


@torch.no_grad()
def losses_by_time(model, batches: Batches, paint: Callable, abar: torch.Tensor):
    """Mean squared error of the predicted clean picture, by the time of the noise.

    The pictures and the noise are the same every time, whatever the grid of the model: noise
    is drawn per pixel. Pixels count from -1 to 1.

    Returns:
        {time: error} at `TIMES`.
    """
    found = {}
    block = batches.settings.model.block
    paints, ids = batches.plan(_FIXED)
    z = np.array(paint(paints, block))
    pixels = architecture.depth_to_space(jnp.asarray(z), block)
    noise = np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
    noise = np.array(architecture.space_to_depth(jnp.asarray(noise), block))
    z, noise = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (z, noise))
    for time in TIMES:
        a = abar[int(1000 * time)]
        t = torch.full((len(z),), int(1000 * time))
        noised = a.sqrt() * z + (1 - a).sqrt() * noise
        found[time] = float(((model(noised, t, torch.from_numpy(ids).long()) - z) ** 2).mean())
    return found


@torch.no_grad()
def sample(model, ids, empty, abar, *, grid: int, steps: int, guidance: float, seed: int = 0):
    """DDIM with classifier-free guidance and clipped predictions, as `sampling.sample`.

    Args:
        model: The prior.
        ids: Token ids [B, N].
        empty: Token ids [1, N] of the empty caption.
        abar: alpha_t^2 of every step of the schedule.
        grid: Height and width of z.
        steps: Evaluations.
        guidance: omega of the paper.
        seed: Of the noise.

    Returns:
        z_0 [B, C, grid, grid] in [-1, 1].
    """
    count, channels = len(ids), model.unet.config.in_channels
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, channels, grid, grid, generator=generator)
    both = torch.cat([ids, empty.expand(count, -1)])
    times = torch.linspace(999, 0, steps).round().long()
    for i, time in enumerate(times):
        a = abar[time]
        told, untold = model(torch.cat([z, z]), time.expand(2 * count), both).chunk(2)
        x = (told + guidance * (told - untold)).clamp(-1, 1)
        if i + 1 == steps:
            return x
        following = abar[times[i + 1]]
        noise = (z - a.sqrt() * x) / (1 - a).sqrt()
        z = following.sqrt() * x + (1 - following).sqrt() * noise
    return z


def draw_grid(
    file: Path,
    model,
    settings: Settings,
    tokenizer: CLIPTokenizer,
    abar: torch.Tensor,
    *,
    steps: int = 20,
    guidance: float = 3.0,
) -> None:
    """Writes a sheet of pictures of `grid_captions`; the same noise every time."""
    rows = grid_captions(settings.vocabulary)
    texts = [f"{text}, {view}, medium shot" for text in rows for view in GRID_VIEWS]
    ids = torch.from_numpy(np.array(architecture.tokenize(tokenizer, [*texts, ""]))).long()
    size, block = settings.model.image_size, settings.model.block
    pictures = []
    for chunk in ids[:-1].split(40):
        z = sample(model, chunk, ids[-1:], abar, grid=size // block, steps=steps, guidance=guidance)
        z = jnp.asarray(z.permute(0, 2, 3, 1).numpy())
        pictures.append(0.5 * architecture.depth_to_space(z, block) + 0.5)
    table = jnp.concatenate(pictures).reshape(len(rows), len(GRID_VIEWS), size, size, 3)
    file.parent.mkdir(exist_ok=True, parents=True)
    save_png(file, contact_sheet(enlarge(table), [*rows.values()]))
