from dreamfusion_jax.runs.old_settings import upgrade
from dreamfusion_jax.runs.settings import from_json
from dreamfusion_jax.scene.fields.density import LITERAL, Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp

BLOB = {"strength": 5.0, "width": 0.2}
MLP = {"width": 32, "blocks": 2, "frequencies": 6, "blob": BLOB, "bfloat16": True}
GRID = {"radius": 0.5, "bias": -3.0, "blob": {"strength": 7.0, "width": 0.1}, "latent": False}
GRID["grid"] = {"resolutions": [8, 16], "features": 4, "log2_table_size": 18}


def upgraded(field):
    scene = {"field": dict(field), "proposal": {"width": 16, "blob": BLOB}, "background": None}
    names = ("negative_prompt", "seed", "prior", "weights", "image_size", "preset")
    config = {"scene": scene, "train": {"seed": 0, "optimizer": {"learning_rate": 0.1}}}
    settings = dict.fromkeys(names) | {"prompt": "a red apple", "config": config}
    return upgrade({"arguments": [], "settings": settings})["settings"]["config"]["scene"]


def test_densities_of_older_runs_are_what_they_were():
    scene = upgraded(MLP)
    field = from_json(scene["field"], GridField | MlpField)
    assert field == MlpField(32, 2, 6, LITERAL, bfloat16=True)
    assert from_json(scene["proposal"], ProposalMlp) == ProposalMlp(16, density=LITERAL)
    field = from_json(upgraded(GRID)["field"], GridField | MlpField)
    assert isinstance(field, GridField) and field.radius == 0.5
    assert field.density == Density(-3.0, "inside", 7.0, 0.1)
