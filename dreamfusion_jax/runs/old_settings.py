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
        _share_times(config["train"])
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


def _share_times(train: dict[str, Any]) -> None:
    """What was counted in steps is a fraction of the run; the seed is no setting of the training.

    What lasted longer than the run ends with it, at the value that it had reached.
    """
    steps, sds, losses = train["steps"], train.pop("sds"), train["losses"]
    train.pop("seed")
    train["variance"] = _share_ramp(train["variance"], steps)
    for name in ("orientation", "entropy"):
        losses[name] = _share_ramp(losses[name], steps)
    high = _share_ramp(sds.pop("time_high"), steps)
    train["time"] = {"low": sds.pop("time_low"), "high": high}
    train["distillation"] = {**sds, "kind": "Sds"}
    lighting, optimizer = train["lighting"], train["optimizer"]
    lighting["albedo_until"] = min(lighting.pop("albedo_steps") / steps, 1.0)
    if optimizer["kind"] == "AdamConfig":
        warm_up = min(optimizer["warm_up"], steps // 2)
    else:
        warm_up = min(3000, steps // 5)
    optimizer["warm_up"] = warm_up / steps


def _share_ramp(ramp: dict[str, Any], steps: int) -> dict[str, Any]:
    length, start, end = ramp["steps"], ramp["start"], ramp["end"]
    if length > steps:
        return {"start": start, "end": start + (end - start) * steps / length, "until": 1.0}
    return {"start": start, "end": end, "until": length / steps}
