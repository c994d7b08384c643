"""A small image classifier of the toybox that knows nothing of the diffusion prior.

It was trained on ground-truth renders alone (`python -m experiments.train_judge`), with
its own seed, and says of a picture what is on it, in which colour and from which side.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Key
from safetensors.numpy import load_file, save_file

from dreamfusion_jax.maths import to_symmetric
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.views import VIEWS
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS

Params = dict[str, Any]

SHIPPED = Path(__file__).parent.parent / "weights" / "judge"
"""The folder of the judge that is installed with the package."""

_CONFIG, _WEIGHTS = "judge.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """What the judge tells apart, and its size.

    Attributes:
        categories: Names from `CATEGORIES`.
        colours: Names from `COLOURS`.
        image_size: Height and width of the pictures it looks at, pixels.
        channels: Width of each level; each but the first halves the picture.
        hidden: Width of the layer before the answers.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)
    colours: tuple[str, ...] = tuple(COLOURS)
    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128, 192)
    hidden: int = 128

    @property
    def answers(self) -> tuple[str, ...]:
        """What the judge can say a picture shows."""
        return *self.categories, "something else"


@pytree
class Verdict:
    """What the judge thinks of pictures: unnormalized log-probabilities.

    Attributes:
        category: Of `JudgeConfig.answers`: its categories, and last "something else".
        colour: Of `JudgeConfig.colours`.
        view: Of `camera.VIEWS`: front, side, back, overhead.
    """

    category: Float[Array, "B answers"]
    colour: Float[Array, "B colours"]
    view: Float[Array, "B 4"]


class _Network(nn.Module):
    """Two 3 x 3 convolutions a level, then one hidden layer over the smallest picture."""

    config: JudgeConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> Verdict:
        for level, width in enumerate(self.config.channels):
            for stride in (1 if level == 0 else 2, 1):
                x = nn.Conv(width, (3, 3), (stride, stride))(x)
                x = nn.silu(nn.GroupNorm(num_groups=8)(x))
        x = nn.silu(nn.Dense(self.config.hidden)(x.reshape(x.shape[0], -1)))
        sizes = {
            "category": len(self.config.answers),
            "colour": len(self.config.colours),
            "view": len(VIEWS),
        }
        return Verdict(**{name: nn.Dense(size, name=name)(x) for name, size in sizes.items()})


@dataclasses.dataclass(frozen=True)
class Judge:
    """The classifier without its parameters."""

    config: JudgeConfig = JudgeConfig()

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        size = self.config.image_size
        images = jnp.zeros((1, size, size, 3))
        return dict(jax.jit(_Network(self.config).init)(key, images)["params"])

    def __call__(self, params: Params, images: Float[Array, "B H W 3"]) -> Verdict:
        """Judges pictures in [0, 1]; those of another size are averaged over areas."""
        small = area_average(images, self.config.image_size)
        verdict = _Network(self.config).apply({"params": params}, to_symmetric(small))
        assert isinstance(verdict, Verdict)
        return verdict


def area_average(images: Float[Array, "B H W 3"], size: int) -> Float[Array, "B size size 3"]:
    """Means over the squares into which [size, size] new pixels divide each picture."""
    for axis in (1, 2):
        length = images.shape[axis]
        if length != size:
            weights = jnp.asarray(_overlaps(length, size))
            full = jax.lax.Precision.HIGHEST
            means = jnp.tensordot(weights, images, (1, axis), precision=full)
            images = jnp.moveaxis(means, 0, axis)
    return images


def _overlaps(old: int, new: int) -> np.ndarray:
    """[new, old] share of each new pixel that each old one covers, along one axis."""
    ends, cells = np.arange(new + 1) * old / new, np.arange(old)
    shared = np.minimum(ends[1:, None], cells + 1) - np.maximum(ends[:-1, None], cells)
    return (np.maximum(shared, 0.0) * new / old).astype(np.float32)


def save_judge(folder: Path, judge: Judge, params: Params) -> None:
    """Writes judge.json, and the parameters in half precision as model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = flatten_dict(params, sep=".")
    half = {name: np.asarray(leaf, np.float16) for name, leaf in leaves.items()}
    part = folder / f"{_WEIGHTS}.part"
    save_file(half, part)
    part.replace(folder / _WEIGHTS)
    config = json.dumps(dataclasses.asdict(judge.config), indent=2)
    (folder / _CONFIG).write_text(config + "\n", encoding="utf-8")


def load_judge(folder: Path = SHIPPED) -> tuple[Judge, Params]:
    """Reads a folder that `save_judge` wrote.

    Raises:
        FileNotFoundError: There is no judge in the folder.
        ValueError: Its parameters do not fit its configuration.
    """
    if not ((folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()):
        raise FileNotFoundError(
            f"{folder} holds no judge; train one with "
            f"`python -m experiments.train_judge --output {folder}`"
        )
    values: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    judge = Judge(JudgeConfig(**values))
    stored = load_file(folder / _WEIGHTS)
    shapes_of = jax.eval_shape(judge.init, jax.random.key(0))
    expected: dict[str, Any] = dict(flatten_dict(shapes_of, sep="."))
    shapes, wanted = ({n: x.shape for n, x in t.items()} for t in (stored, expected))
    if shapes != wanted:
        names = sorted({name for name, _ in shapes.items() ^ wanted.items()})
        raise ValueError(f"{folder / _WEIGHTS} does not fit {_CONFIG}: {', '.join(names)}")
    params = {name: jnp.asarray(x, jnp.float32) for name, x in stored.items()}
    return judge, unflatten_dict(params, sep=".")
