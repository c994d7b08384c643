"""The baseline that climbs a judge's score."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_run import CONFIG_OF_RUN

from dreamfusion_jax.evaluation.caption_judge import JudgeScorer
from dreamfusion_jax.evaluation.dream_fields import make_baseline
from dreamfusion_jax.evaluation.judge import Judge, JudgeConfig
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import orbit


@pytest.mark.slow
def test_the_judge_is_pleased_more_and_the_scene_is_made_once(tmp_path: Path) -> None:
    judge = Judge(JudgeConfig(("apple", "car"), ("red", "green"), 8, (8,), 8))
    params = judge.init(jax.random.key(3))
    scorer = JudgeScorer(judge, params)

    def score(steps: int) -> float:
        train = dataclasses.replace(CONFIG_OF_RUN.train, steps=steps, views=2)
        config = dataclasses.replace(CONFIG_OF_RUN, train=train)
        folder = tmp_path / str(steps)
        scene = make_baseline(folder, "a red car", 0, config, judge, params)
        again = make_baseline(folder, "a red car", 0, config, judge, params)
        jax.tree.map(np.testing.assert_array_equal, scene.params, again.params)
        assert isinstance(TrainedScene.load(folder / "a-red-car-seed0.safetensors"), TrainedScene)
        looks = scene.look(orbit(4, 0.3, 1.3, 1.1), size=8, backdrop=0.65)
        return float(scorer(np.asarray(looks.colour), ["a red car"]).mean())

    assert score(40) > score(1) + 0.1
    with pytest.raises(ValueError, match="cannot tell 'a blue car'"):
        make_baseline(tmp_path, "a blue car", 0, CONFIG_OF_RUN, judge, params)
    assert jnp.isfinite(score(40))
