"""A run's page: everything about it in one file beside its pictures."""

from pathlib import Path

from dreamfusion_jax.pages.plots import HEIGHT, WIDTH, Plot, plot
from dreamfusion_jax.pages.record import PAGE, RunRecord, read_record
from dreamfusion_jax.pages.templating import write_page
from dreamfusion_jax.runs.files import MESH
from dreamfusion_jax.runs.watch import TIMES, VIEWS

_MOST_SHOWN = 6
_ABOVE, _DISTANCE = (-0.35, 0.5, 0.0), 1.4
"""Where the mesh is first seen from: turned about x and y, radians; and its diagonals away."""
_RENDERER = "renderer=new THREE.WebGLRenderer({antialias:true});"
"""A line of trimesh's page, after which colours are declared to be sRGB."""


def write_run_page(folder: Path, command: str | None = None) -> Path:
    """Writes index.html into a run's folder, finished or not.

    Args:
        folder: Of the run.
        command: What makes the run again; None where nothing short does.

    Returns:
        The page.

    Raises:
        CheckpointError: The folder is not a run's.
        OSError: It cannot be written.
        ValueError: A file of the run is damaged.
    """
    record = read_record(folder)
    page = folder / PAGE
    write_page(
        page,
        "run.html",
        run=record,
        command=command,
        progress=progress_plots(record),
        metrics=metric_plots(record),
        shown=[(int(path.stem), f"shown/{path.name}") for path in some(record.shown)],
        times=TIMES,
        views=VIEWS,
        mesh=mesh_page(folder / MESH) if record.has(MESH) else None,
        plot_width=WIDTH,
        plot_height=HEIGHT,
    )
    return page


def some(paths: list[Path], most: int = _MOST_SHOWN) -> list[Path]:
    """The first, the last, and evenly some between."""
    if len(paths) <= most:
        return paths
    return [paths[round(at * (len(paths) - 1) / (most - 1))] for at in range(most)]


def progress_plots(record: RunRecord) -> list[Plot]:
    """What the prior says of the fixed views: the residual by noise, opacity, change."""
    columns = dict(record.progress)
    steps = columns.pop("step", [])
    residuals = {
        f"t = {name.removeprefix('residual_')}": columns.pop(name)
        for name in list(columns)
        if name.startswith("residual_")
    }
    plots = [plot("residual of the prior", steps, residuals)] if residuals else []
    return plots + [plot(name, steps, {name: column}) for name, column in columns.items()]


def metric_plots(record: RunRecord) -> list[Plot]:
    """A plot for each number of the steps."""
    columns = dict(record.metrics)
    steps = columns.pop("step", [])
    return [plot(name, steps, {name: column}) for name, column in columns.items()]


def mesh_page(path: Path) -> str:
    """A mesh with three.js (MIT) to turn it, as a page of its own that loads nothing.

    Args:
        path: A file that trimesh reads.

    Raises:
        ValueError: It cannot be read.
    """
    import trimesh
    from trimesh.scene.cameras import Camera
    from trimesh.viewer.notebook import scene_to_html

    try:
        scene = trimesh.load_scene(path)
    except Exception as error:  # trimesh documents no exceptions for damaged files.
        raise ValueError(f"{path} cannot be read: {error}") from error
    # Without a name from here, the camera would have a random one, and every page would differ.
    scene.camera = Camera("camera", fov=(60.0, 45.0))
    scene.set_camera(angles=_ABOVE, distance=_DISTANCE * scene.scale)
    page = scene_to_html(scene)
    # Without it three.js shows linear colours, which are darker than they were made.
    return page.replace(_RENDERER, f"{_RENDERER}renderer.outputEncoding=THREE.sRGBEncoding;")
