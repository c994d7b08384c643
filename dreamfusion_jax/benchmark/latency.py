"""How long it takes from the start of a program to its first step.

    python -m dreamfusion_jax.benchmark.latency toybox "a red mushroom" 64

prints the seconds of one program; `first_step` runs it twice.
"""

import os
import subprocess
import sys
import tempfile
import time

from dreamfusion_jax.benchmark.timing import Measured
from dreamfusion_jax.caches import LEAST_SECONDS


def first_step(preset: str, prompt: str, views: int) -> list[Measured]:
    """Seconds of a fresh program to the end of its first step, without and with compiled programs.

    Args:
        preset: Its name.
        prompt: What it is asked for.
        views: Of the step.

    Raises:
        RuntimeError: The program failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(LEAST_SECONDS),
        }
        return [
            Measured(f"first step of {preset}, {how}", _run(preset, prompt, views, environment), 1)
            for how in ("nothing compiled before", "compiled programs kept")
        ]


def _run(preset: str, prompt: str, views: int, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", __name__, preset, prompt, str(views)]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the program of the first step failed: {done.stderr[-500:]}")
    return time.perf_counter() - begun


def main(name: str, prompt: str, views: int) -> None:
    """Takes one step, with everything that comes before it."""
    import jax

    from dreamfusion_jax import presets
    from dreamfusion_jax.distillation.train import Model, init_state, train_step
    from dreamfusion_jax.priors.prior import encode_prompts
    from dreamfusion_jax.runs.settings import RunSettings

    preset = presets.preset(name)
    config = presets.changed(preset.config, {"train.views": views})
    prior, params = RunSettings.of(preset, prompt).load_prior()
    model = Model(config.scene, prior)
    text = encode_prompts(prior, params, prompt, config.train.prompts)
    state = init_state(model, config.train, 0)
    jax.block_until_ready(train_step(state, params, text, model=model, config=config.train))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
