"""A small judge of toybox pictures that knows nothing of the diffusion prior.

It was trained on ground-truth renders alone (`python -m experiments.train_judge`), with
its own seed. It says of a picture what is on it, in which colour and from which side, and
compares pictures with captions, as CLIP does (2103.00020).
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Key
from safetensors.numpy import load_file, save_file

from dreamfusion_jax.diffusion.clip import ClipTextConfig, TextTower, TowerConfig
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.maths import to_symmetric
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.views import VIEWS
from dreamfusion_jax.toybox.architecture import space_to_depth
from dreamfusion_jax.toybox.tokenizer import MAX_LENGTH, WordIds, build_tokenizer
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
        modifiers: Templates from `MODIFIERS` that it tells, and their colours; may be none.
        block: Pixels per side of the squares that are stacked into channels first.
        meeting: Width of the space in which pictures and captions meet; 0 for a judge that
            does not read.
        text_width: Width of the text encoder.
        words: Number of tokens that the text encoder knows.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)
    colours: tuple[str, ...] = tuple(COLOURS)
    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128, 192)
    hidden: int = 128
    modifiers: tuple[str, ...] = ()
    block: int = 1
    meeting: int = 0
    text_width: int = 64
    words: int = 0

    @property
    def answers(self) -> tuple[str, ...]:
        """What the judge can say a picture shows."""
        return *self.categories, "something else"

    @property
    def text(self) -> ClipTextConfig:
        """The text encoder: CLIP's, two layers deep."""
        tower = TowerConfig(self.text_width, 2, 4, 4 * self.text_width, "quick_gelu", 1e-5, True)
        return ClipTextConfig(tower, self.words, MAX_LENGTH, eos_token_id=1)


@pytree
class Verdict:
    """What the judge thinks of pictures: unnormalized log-probabilities.

    Attributes:
        category: Of `JudgeConfig.answers`: its categories, and last "something else".
        colour: Of `JudgeConfig.colours`.
        view: Of `camera.VIEWS`: front, side, back, overhead.
        modifier: No modifier, then `JudgeConfig.modifiers`; None from a judge that knows none.
        modifier_colour: Of `JudgeConfig.colours`; means nothing where there is no modifier.
    """

    category: Float[Array, "B answers"]
    colour: Float[Array, "B colours"]
    view: Float[Array, "B 4"]
    modifier: Float[Array, "B modifiers"] | None = None
    modifier_colour: Float[Array, "B accents"] | None = None


def modifiers_named(verdict: Verdict, config: JudgeConfig) -> tuple[np.ndarray, np.ndarray] | None:
    """Names of the modifier, "" for none, and of its colour in each picture [B].

    None from a judge that knows no modifiers.
    """
    if verdict.modifier is None or verdict.modifier_colour is None:
        return None
    kinds, hues = np.array(["", *config.modifiers]), np.array(config.colours)
    kind, hue = (np.asarray(x).argmax(axis=-1) for x in (verdict.modifier, verdict.modifier_colour))
    return kinds[kind], hues[hue]


class _Network(nn.Module):
    """Two 3 x 3 convolutions a level, then one hidden layer over the smallest picture."""

    config: JudgeConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[Verdict, jax.Array]:
        config = self.config
        x = space_to_depth(x, config.block)
        for level, width in enumerate(config.channels):
            for stride in (1 if level == 0 else 2, 1):
                x = nn.Conv(width, (3, 3), (stride, stride))(x)
                x = nn.silu(nn.GroupNorm(num_groups=8)(x))
        x = nn.silu(nn.Dense(config.hidden)(x.reshape(x.shape[0], -1)))
        sizes = {
            "category": len(config.answers),
            "colour": len(config.colours),
            "view": len(VIEWS),
        }
        if config.modifiers:
            sizes |= {"modifier": 1 + len(config.modifiers), "modifier_colour": len(config.colours)}
        said = {name: nn.Dense(size, name=name)(x) for name, size in sizes.items()}
        if config.meeting:
            x = nn.Dense(config.meeting, use_bias=False, name="visual_projection")(x)
        return Verdict(**said), x


class _Reader(nn.Module):
    """CLIP's text encoder and its projection, and the scale and shift of comparisons."""

    config: JudgeConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "P N"]) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, end = TextTower(self.config.text, name="text_model")(ids)
        vectors = nn.Dense(self.config.meeting, use_bias=False, name="text_projection")(end)
        # As SigLIP begins (2303.15343).
        scale = self.param("logit_scale", nn.initializers.constant(jnp.log(10.0)), ())
        return vectors, jnp.exp(scale), self.param("logit_bias", nn.initializers.constant(-5.0), ())


@dataclasses.dataclass(frozen=True)
class Judge:
    """The judge without its parameters."""

    config: JudgeConfig = JudgeConfig()

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh parameters."""
        size = self.config.image_size
        images = jnp.zeros((1, size, size, 3))
        params = dict(jax.jit(_Network(self.config).init)(key, images)["params"])
        if self.config.meeting:
            ids = jnp.zeros((1, MAX_LENGTH), jnp.int32)
            reader = jax.jit(_Reader(self.config).init)(jax.random.fold_in(key, 1), ids)
            params["reader"] = dict(reader["params"])
        return params

    def __call__(self, params: Params, images: Float[Array, "B H W 3"]) -> Verdict:
        """Judges pictures in [0, 1]; those of another size are averaged over areas."""
        return self.look(params, images)[0]

    def look(
        self, params: Params, images: Float[Array, "B H W 3"]
    ) -> tuple[Verdict, Float[Array, "B D"]]:
        """The verdict on pictures in [0, 1], and vectors to compare with those of captions."""
        small = area_average(images, self.config.image_size)
        own = {name: values for name, values in params.items() if name != "reader"}
        found: Any = _Network(self.config).apply({"params": own}, to_symmetric(small))
        verdict, vectors = found
        return verdict, _unit(vectors)

    def compare(
        self, params: Params, vectors: Float[Array, "B D"], ids: Int[Array, "P N"]
    ) -> Float[Array, "B P"]:
        """How well captions fit pictures: log-odds that a caption is true of a picture.

        Args:
            params: Parameters.
            vectors: Of `look`.
            ids: Captions, of `read`.
        """
        read: Any = _Reader(self.config).apply({"params": params["reader"]}, ids)
        captions, scale, shift = read
        full = jax.lax.Precision.HIGHEST
        cosine = jnp.matmul(vectors, _unit(captions).T, precision=full)
        return scale * cosine + shift

    def read(self, captions: Sequence[str]) -> Int[np.ndarray, "P N"]:
        """Token ids of captions of the toybox grammar.

        Raises:
            KeyError: A word that no caption has.
            ValueError: This judge does not read.
        """
        if not self.config.meeting:
            raise ValueError("this judge was not trained to read captions")
        return _word_ids()(captions)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


@functools.cache
def _word_ids() -> WordIds:
    return WordIds(build_tokenizer())


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
    leaves = flatten_dict(params, sep="/")
    half = {name: np.asarray(leaf, np.float16) for name, leaf in leaves.items()}
    write_whole(folder / _WEIGHTS, lambda part: save_file(half, part))
    config = json.dumps(dataclasses.asdict(judge.config), indent=2)
    (folder / _CONFIG).write_text(config + "\n", encoding="utf-8")


def load_judge(folder: Path = SHIPPED) -> tuple[Judge, Params]:
    """Reads a folder that `save_judge` wrote.

    Raises:
        FileNotFoundError: There is no judge in the folder.
        ValueError: Its parameters do not fit its configuration.
    """
    if not ((folder / _CONFIG).is_file() and (folder / _WEIGHTS).is_file()):
        raise FileNotFoundError(f"{folder} holds no judge; experiments.train_judge trains one")
    values: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    judge = Judge(JudgeConfig(**values))
    # The oldest judges have dots between the parts of a name.
    dotted = {
        tuple(n.split("/" if "/" in n else ".")): x for n, x in load_file(folder / _WEIGHTS).items()
    }
    stored = {"/".join(name): x for name, x in dotted.items()}
    shapes_of = jax.eval_shape(judge.init, jax.random.key(0))
    expected: dict[str, Any] = dict(flatten_dict(shapes_of, sep="/"))
    shapes, wanted = ({n: x.shape for n, x in t.items()} for t in (stored, expected))
    if shapes != wanted:
        names = sorted({name for name, _ in shapes.items() ^ wanted.items()})
        raise ValueError(f"{folder / _WEIGHTS} does not fit {_CONFIG}: {', '.join(names)}")
    params = {name: jax.device_put(x.astype(np.float32)) for name, x in stored.items()}
    return judge, unflatten_dict(params, sep="/")
