"""Settings of runs that older versions of this package wrote, in today's form."""

import copy
from typing import Any

from dreamfusion_jax.runs.checkpoint import CheckpointError


def is_old(saved: dict[str, Any]) -> bool:
    """Whether the contents of a config.json are of the kind that held the command line."""
    return "format" not in saved and "arguments" in saved and "settings" in saved


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
    """Contents of a config.json of the first kind, as those of format 2.

    The first kind stored the resolved settings beside the command line, but without the names
    of classes: these follow from the settings that each class alone has.

    Raises:
        CheckpointError: Something is missing.
    """
    old = copy.deepcopy(saved["settings"])
    try:
        config = old["config"]
        _name_kinds(config)
        _join_densities(config["scene"])
        config["train"].pop("seed")
        settings = {
            name: old[name]
            for name in ("prompt", "negative_prompt", "seed", "prior", "weights", "image_size")
        }
        settings |= {"preset": old["preset"], "config": config}
    except KeyError as error:
        raise CheckpointError(f"settings of an older version without {error}") from error
    return {"format": 2, "settings": settings}


def _name_kinds(config: dict[str, Any]) -> None:
    field, optimizer = config["scene"]["field"], config["train"]["optimizer"]
    field["kind"] = "GridField" if "grid" in field else "MlpField"
    optimizer["kind"] = "AdamConfig" if "learning_rate" in optimizer else "ShampooConfig"


def _join_densities(scene: dict[str, Any]) -> None:
    """A grid's blob was inside of the exponential, that of networks outside and without a bias."""
    for part in (scene["field"], scene["proposal"]):
        grid = "grid" in part
        place = {"bias": part.pop("bias") if grid else 0.0, "blob": "inside" if grid else "outside"}
        part["density"] = place | part.pop("blob")
