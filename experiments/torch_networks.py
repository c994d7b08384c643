"""A prior's networks in PyTorch, as diffusers has them, with the same weights."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import load_file

from dreamfusion_jax.benchmark.components import Setting
from dreamfusion_jax.benchmark.table import Compared
from dreamfusion_jax.benchmark.timing import Case, Running
from dreamfusion_jax.diffusion.checkpoints.weights import save_params
from dreamfusion_jax.priors.stable_diffusion import StableDiffusionPrior
from dreamfusion_jax.priors.toybox import ToyboxPrior
from experiments.torch_peers import in_turn, share

logging.set_verbosity_error()  # Types are changed on purpose.


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network of diffusers, and the ways in which PyTorch runs it.

    Attributes:
        network: With our weights, where it shall run.
        part: What of it is run.
        ask: From that part, or what it was compiled to, and a type, to a function that runs it
            once.
    """

    network: torch.nn.Module
    part: Callable[..., Any]
    ask: Callable[[Any, torch.dtype], Callable[[], torch.Tensor]]

    def ways(self, compiled: bool) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
        """Eager and perhaps compiled, in the type that the device is fastest with."""
        dtype = fastest_type()
        self.network.to(dtype)
        runs = {"eager": self.part}
        if compiled:
            runs["compiled"] = torch.compile(self.part)
        for name, part in runs.items():
            once = self.ask(part, dtype)
            yield f"{name} {str(dtype).removeprefix('torch.')}", _to_the_end(once)


def fastest_type(size: int = 1024) -> torch.dtype:
    """The type in which PyTorch multiplies large matrices fastest here.

    Few processors are fast with bfloat16; others take many times as long.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones((size, size), dtype=dtype, device=device)
        once = _to_the_end(lambda: matrix @ matrix)
        once()
        begun = time.perf_counter()
        for _ in range(3):
            once()
        return time.perf_counter() - begun

    return min((torch.float32, torch.bfloat16), key=seconds)


def _to_the_end(once: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A function that returns when the device is done."""

    def whole() -> torch.Tensor:
        result = once()
        if result.is_cuda:
            torch.cuda.synchronize()
        return result

    return whole


def compare_networks(
    setting: Setting, folder: Path, seconds: float, *, compiled: bool
) -> Iterator[Compared]:
    """The prior's UNet, and Stable Diffusion's image encoder there and back.

    Args:
        setting: A preset with a prior of ours.
        folder: With unet/config.json, and vae/config.json, in diffusers' layout.
        seconds: To spend on each way.
        compiled: Whether PyTorch compiles, too.

    Raises:
        OSError: A configuration cannot be read.
    """
    prior = setting.prior
    if isinstance(prior, ToyboxPrior | StableDiffusionPrior):
        case, peer = _unet(setting, prior, folder / "unet")
        yield from _in_turn(case, peer, seconds, compiled)
    if isinstance(prior, StableDiffusionPrior):
        case, peer = _encoder(setting, prior, folder / "vae")
        yield from _in_turn(case, peer, seconds, compiled)


def _network(kind: Any, folder: Path, params: Any) -> Any:
    """A network of diffusers with our weights."""
    network = kind.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "weights.safetensors"
        save_params(params, file, dtype=jnp.float32)
        network.load_state_dict(load_file(file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.float().eval().requires_grad_(False).to(device)


def _tensors(
    network: torch.nn.Module, dtype: torch.dtype, *arrays: np.ndarray
) -> list[torch.Tensor]:
    """Arrays where the network is, pictures with their channels first."""
    device = next(network.parameters()).device
    moved = (np.moveaxis(x, -1, 1) if x.ndim == 4 else x for x in arrays)
    return [torch.from_numpy(np.array(x)).to(device, dtype) for x in moved]


def _unet(
    setting: Setting, prior: ToyboxPrior | StableDiffusionPrior, folder: Path
) -> tuple[Case, Peer]:
    unet, batch = prior.unet, 2 * setting.config.train.views
    side = unet.config.sample_size
    assert side is not None
    draw = np.random.default_rng(0).standard_normal
    z = draw((batch, side, side, unet.config.in_channels)).astype(np.float32)
    words = np.asarray(setting.text.plain, np.float32)
    words = np.broadcast_to(words, (batch, *words.shape))
    moment = np.full(batch, 500.0, np.float32)

    def answer(params: Any, z: jax.Array, time: jax.Array, words: jax.Array) -> jax.Array:
        result = unet.apply({"params": params}, z, time, words)
        assert isinstance(result, jax.Array)
        return result

    def ask(runs: Any, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
        inputs = _tensors(network, dtype, z, moment, words)

        def once() -> torch.Tensor:
            with torch.inference_mode():
                return runs(*inputs).sample

        return once

    network = _network(UNet2DConditionModel, folder, setting.params["unet"])
    name = f"{setting.preset.name}: UNet, batch {batch}"
    arguments = (setting.params["unet"], *map(jnp.asarray, (z, moment, words)))
    case = Case.of(name, answer, *arguments, dtype=setting.dtype)
    return case, Peer(network, network, ask)


def _encoder(setting: Setting, prior: StableDiffusionPrior, folder: Path) -> tuple[Case, Peer]:
    vae, views = prior.vae, setting.config.train.views
    size = prior.latent_size * 2 ** (vae.config.levels - 1)
    draw = np.random.default_rng(0)
    image = draw.uniform(-1.0, 1.0, (views, size, size, 3)).astype(np.float32)
    shape = (views, prior.latent_size, prior.latent_size, vae.config.latent_channels)
    weight = draw.standard_normal(shape).astype(np.float32)

    def gradient(params: Any, image: jax.Array, weight: jax.Array) -> jax.Array:
        def weigh(image: jax.Array) -> jax.Array:
            mean, _ = vae.apply({"params": params}, image, method="encode")
            return jnp.sum(mean.astype(jnp.float32) * weight)

        return jax.grad(weigh)(image)

    def ask(runs: Any, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
        inputs, weights = _tensors(network, dtype, image, weight)
        inputs.requires_grad_()

        def once() -> torch.Tensor:
            mean = runs(inputs).latent_dist.mean
            return torch.autograd.grad((mean * weights).sum(), inputs)[0]

        return once

    network = _network(AutoencoderKL, folder, setting.params["vae"])
    name = f"{setting.preset.name}: image encoder there and back, {views} views"
    arguments = (setting.params["vae"], jnp.asarray(image), jnp.asarray(weight))
    case = Case.of(name, gradient, *arguments, dtype=setting.dtype)
    return case, Peer(network, network.encode, ask)


def _in_turn(case: Case, peer: Peer, seconds: float, compiled: bool) -> Iterator[Compared]:
    ours = Running(case)
    for way, theirs in peer.ways(compiled):
        name = f"{case.name}, {case.dtype} against {way}"
        yield in_turn(ours, name, theirs, _distance, seconds)


def _distance(ours: jax.Array, theirs: torch.Tensor) -> float:
    pictures = np.moveaxis(theirs.detach().float().cpu().numpy(), 1, -1)
    return share(np.asarray(ours, np.float32), pictures)
