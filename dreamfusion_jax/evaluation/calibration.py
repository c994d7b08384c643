"""Where the thresholds of the symptoms lie: true objects against the same ones made faulty."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.evaluation.symptoms import (
    THRESHOLDS,
    Symptoms,
    around,
    away,
    examine,
    examine_faces,
    face_margin,
    shape_symptoms,
)
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.lighting import LIGHT_GREY, plain_albedo
from dreamfusion_jax.toybox.captions import caption
from dreamfusion_jax.toybox.renderer import draw_truth
from dreamfusion_jax.toybox.world import CATEGORIES, Scene

_NAMES = tuple(field.name for field in dataclasses.fields(Symptoms))
_ALARMS = 98.0
"""Percentile of the true objects at which a threshold is suggested: 1 of 50 is called faulty."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one thing suffers from.

    Attributes:
        group: "truth" and "runs" are well; "several faces", "fog", "flat", "empty" and "faulty
            runs" are not.
        name: Caption or folder.
        symptoms: Of it; NaN stands for what was not examined.
    """

    group: str
    name: str
    symptoms: Symptoms


FAULTS = {
    "emptiness": ("empty",),
    "fog": ("fog",),
    "flatness": ("flat",),
    "faces": ("several faces", "faulty runs"),
}
"""Groups that a symptom should tell from those that are well."""


def _front(cameras: Camera) -> Camera:
    """The camera at azimuth 0 for every one of them: the front is seen from everywhere."""
    azimuth = cameras.azimuth
    cosine, sine, zero = jnp.cos(azimuth), jnp.sin(azimuth), jnp.zeros_like(azimuth)
    back = jnp.stack(
        [
            jnp.stack([cosine, sine, zero], -1),
            jnp.stack([-sine, cosine, zero], -1),
            jnp.stack([zero, zero, zero + 1], -1),
        ],
        axis=-2,
    )
    full = jax.lax.Precision.HIGHEST
    return Camera(
        jnp.einsum("vij,vj->vi", back, cameras.position, precision=full),
        jnp.einsum("vij,vjk->vik", back, cameras.rotation, precision=full),
        cameras.focal,
    )


def examine_truth(scene: Scene, prior: Prior, params: PriorParams) -> list[Finding]:
    """A true object, and four ways to spoil it.

    Several faces: where it has a front, that is shown from every side. Fog: half as opaque, and
    a haze of 0.3 everywhere. Flat: each silhouette as narrow as that of a card seen at its
    azimuth. Empty: a fiftieth as opaque.

    Raises:
        ValueError: The prior cannot read the caption.
    """
    name, places = caption(scene), (around(), away(), _front(away()))
    cameras = jax.tree.map(lambda *x: jnp.concatenate(x), *places)
    plain = plain_albedo(*cameras.focal.shape)
    colours, alpha = draw_truth(scene, cameras, plain, size=prior.image_size, backdrop=LIGHT_GREY)
    ends = np.cumsum([place.focal.shape[0] for place in places])
    _, seen, fronts = np.split(colours, ends[:-1])
    opacity = alpha[: ends[0]]
    faces = face_margin(prior, params, seen, name)
    findings = [
        Finding("truth", name, dataclasses.replace(shape_symptoms(opacity), faces=faces)),
        Finding("fog", name, shape_symptoms(np.maximum(0.5 * opacity, 0.3))),
        Finding("flat", name, shape_symptoms(_flattened(opacity))),
        Finding("empty", name, shape_symptoms(0.02 * opacity)),
    ]
    if CATEGORIES[scene.category].has_front:
        several = face_margin(prior, params, fronts, name)
        spoilt = dataclasses.replace(shape_symptoms(opacity), faces=several)
        findings.append(Finding("several faces", name, spoilt))
    return findings


def _flattened(opacity: np.ndarray) -> np.ndarray:
    """Only the columns around the middle that a card through the axis would cover."""
    views, width = opacity.shape[0], opacity.shape[-1]
    column = np.abs(np.arange(width) - (width - 1) / 2) / (width / 2)
    shown = np.maximum(np.abs(np.cos(2 * np.pi * np.arange(views) / views)), 0.05)
    return opacity * (column[None] <= shown[:, None])[:, None]


def examine_run(folder: Path, prior: Prior, params: PriorParams, *, group: str) -> Finding:
    """A finished run.

    Raises:
        CheckpointError: The folder is not that of a finished run.
        ValueError: The prior cannot read its prompt.
    """
    settings, scene = load_finished(folder)
    faces = examine_faces(scene, prior, params, settings.prompt)
    return Finding(group, str(folder), dataclasses.replace(examine(scene), faces=faces))


@dataclasses.dataclass(frozen=True)
class Line:
    """How well one symptom tells.

    Attributes:
        symptom: Its name.
        suggested: The threshold that 1 of 50 true objects exceeds.
        used: The threshold in use.
        called_faulty: Share above the threshold in use, by group.
        counts: Number of things in each group.
    """

    symptom: str
    suggested: float
    used: float
    called_faulty: dict[str, float]
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Thresholds and their errors.

    Attributes:
        lines: One a symptom.
        findings: What they are made of.
    """

    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]

    def table(self) -> str:
        """Markdown: a line a symptom."""
        text = (
            "| symptom | 98 of 100 true objects are below | threshold | called faulty |\n"
            + "| --- " * 4
            + "|\n"
        )
        for line in self.lines:
            shares = ", ".join(
                f"{group} {share:.0%} of {line.counts[group]}"
                for group, share in line.called_faulty.items()
            )
            text += f"| {line.symptom} | {line.suggested:.3g} | {line.used:.3g} | {shares} |\n"
        return text

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return dataclasses.asdict(self)


def calibrate(findings: Sequence[Finding], used: Symptoms = THRESHOLDS) -> Calibration:
    """Suggests thresholds, and counts the errors of those in use."""
    lines = []
    for name in _NAMES:
        groups: dict[str, list[float]] = {}
        for finding in findings:
            value = getattr(finding.symptoms, name)
            if value is not None and finding.group in ("truth", "runs", *FAULTS[name]):
                groups.setdefault(finding.group, []).append(value)
        limit = getattr(used, name)
        lines.append(
            Line(
                name,
                float(np.percentile(groups["truth"], _ALARMS)),
                limit,
                {g: float(np.mean(np.array(values) > limit)) for g, values in groups.items()},
                {g: len(values) for g, values in groups.items()},
            )
        )
    return Calibration(tuple(lines), tuple(findings))
