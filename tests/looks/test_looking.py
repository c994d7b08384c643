"""One program draws views of every size, whatever their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Cloud, fresh, light, scene

from dreamfusion_jax.looks import views
from dreamfusion_jax.looks.views import look, look_around
from dreamfusion_jax.pytree import unstack
from dreamfusion_jax.scene.camera import cast_rays, orbit
from dreamfusion_jax.scene.image import as_drawn, drawing_box
from dreamfusion_jax.scene.render import render_rays

NO_BLUR = jnp.zeros(())
GREY = 0.3


@pytest.fixture(scope="module")
def cloud():
    model = scene(Cloud(), radius=1.0, intervals=6, normals="sample")
    return model, fresh(model)


@pytest.mark.parametrize("size", [3, 8])
def test_a_view_is_its_rays_whatever_the_room(cloud, size, monkeypatch):
    model, params = cloud
    camera = unstack(orbit(1, 0.3, 2.0, 1.1))[0]
    box = drawing_box(model, params, NO_BLUR)
    told = {"size": size, "variance": NO_BLUR, "backdrop": GREY, "box": box}
    rays = cast_rays(jax.tree.map(jnp.asarray, camera), size, size)
    drawn = as_drawn(model)
    wanted = jax.jit(
        lambda p: render_rays(
            drawn, p, rays, light(), variance=NO_BLUR, backdrop=jnp.full(3, GREY), box=box
        )
    )(params)
    for room in (9, 64, 1000):  # Of eight calls, one that fits, and one that has room left.
        monkeypatch.setattr(views, "_ROOM", room)
        seen = look(model, params, camera, light(), **told)
        assert seen.shaded.shape == (size, size, 3)
        np.testing.assert_allclose(seen.shaded, wanted.colour, atol=2e-5)
        np.testing.assert_allclose(seen.opacity[..., 0], wanted.opacity, atol=2e-5)


def test_sizes_share_a_program(cloud):
    model, params = cloud
    traces = []

    class Counted(type(model.field)):
        def __call__(self, *args):
            traces.append(None)
            return super().__call__(*args)

    counted = scene(Counted(), radius=1.0, intervals=6, normals="sample")
    camera = unstack(orbit(1, 0.3, 2.0, 1.1))[0]
    box = drawing_box(model, params, NO_BLUR)
    counts = []
    for size in (4, 6, 9):
        look(counted, params, camera, size=size, variance=NO_BLUR, backdrop=GREY, box=box)
        counts.append(len(traces))
    assert counts[0] > 0 and counts == [counts[0]] * 3


def test_views_at_the_same_time_are_those_one_by_one(cloud):
    model, params = cloud
    cameras = orbit(5, 0.3, 2.0, 1.1)
    told = {"size": 6, "variance": NO_BLUR, "backdrop": GREY}
    together = look_around(model, params, cameras, **told)
    box = drawing_box(model, params, NO_BLUR)
    for at, camera in enumerate(unstack(cameras)):
        alone = look(model, params, camera, box=box, **told)
        for seen, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(seen[at], wanted)
