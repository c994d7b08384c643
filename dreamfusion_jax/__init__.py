"""DreamFusion in JAX and Flax: text to 3D by score distillation.

From a prompt to a turntable and a mesh:

    import dreamfusion_jax as df

    settings = df.RunSettings.of(df.preset("toybox"), "a red mushroom", seed=0)
    with df.Run.start("outputs/mushroom", settings) as run:
        scene = run.train([df.Reporter()])
    cameras = df.orbit(48, elevation=0.35, distance=1.3, focal=1.1)
    looks = scene.look(cameras, size=128)
    df.save_video("mushroom.mp4", looks.colour, fps=24.0)
    df.save_mesh(scene.mesh(df.MeshConfig(resolution=96)), "mushroom.glb")

Words, each of which means one thing here:

- *scene*: field, background and sampling (`SceneModel`); with parameters, a `TrainedScene`.
- *field*: density and albedo, or latents, of points in space.
- *view*: what one camera sees, and its name in a prompt ("side view").
- *looks*: a view drawn for people: colour, shaded, textureless, normals.
- *prior*: a text-conditioned diffusion model, as score distillation uses it.
- *run*: one training of one scene, and its folder.
- *preset*: the settings of a run, with the prior that they are made for.
- *toybox*: the procedural world of the embedded prior, in which the truth is known.

Axis letters in shapes: V views, P points or prompts, S intervals of a ray, H and W height and
width of images, h and w of z_0, C its channels, N tokens of a text, D width of an embedding,
B pictures of a batch.
"""

import lazy_loader

# The names come from __init__.pyi; each is imported when it is first used, so that help is fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0.dev0"
