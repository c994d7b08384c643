"""Metadata, dependencies and extras of dreamfusion_jax."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(
    '^__version__ = "(.*)"$', (ROOT / "dreamfusion_jax" / "__init__.py").read_text("utf-8"), re.M
)
assert VERSION is not None

setup(
    name="dreamfusion_jax",
    version=VERSION[1],
    description="DreamFusion in JAX and Flax: text to 3D by score distillation sampling",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["dreamfusion_jax*", "experiments*"]),
    package_data={
        "dreamfusion_jax": [
            "py.typed",
            "__init__.pyi",
            "pages/templates/*.html",
            *(f"weights/**/*.{suffix}" for suffix in ("json", "txt", "md", "webp", "safetensors")),
        ]
    },
    entry_points={"console_scripts": ["dreamfusion-jax = experiments.run:program"]},
    install_requires=[
        "cattrs>=25.1",
        "fast-simplification>=0.1.9",
        "filelock>=3.16",
        "flatbuffers>=23.5.26",  # Of jax.export, which does not ask for it.
        "flax>=0.12",
        "huggingface-hub>=1.0",
        "imageio-ffmpeg>=0.5,<0.8",  # 0.8 carries ffmpeg 9, with which mediapy cannot read.
        "jax>=0.10",
        "jaxtyping>=0.3",
        "jinja2>=3.1",
        "lazy-loader>=0.4",
        "mediapy>=1.2",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=11.0",
        "protobuf>=5.0",  # With sentencepiece, for the tokenizer of DeepFloyd IF.
        "rich>=14.0",
        "safetensors>=0.5",
        "scikit-image>=0.25",
        "scipy>=1.14",
        "sentencepiece>=0.2",
        "tokenizers>=0.22",
        "transformers>=5.0",
        "trimesh>=5.0",
        "tyro>=1.0",
        "xatlas>=0.0.10",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "viewer": ["viser>=1.1"],
        "tensorboard": ["tensorboardX>=2.6"],
        "figures": ["matplotlib>=3.9"],
        "docs": [
            "mkdocs<2",
            "mkdocs-jupyter>=0.25",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.29",
        ],
        "test": [
            "beartype>=0.22",
            "diffusers>=0.40",
            "embreex>=2.17.7.post5",
            "ipykernel>=6.29",
            "matplotlib>=3.9",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "peft>=0.18",
            "playwright>=1.50",
            "pre-commit>=4.0",
            "pyright[nodejs]>=1.1.400",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "tensorboardX>=2.6",
            "torch==2.13.0",
            "viser>=1.1",
        ],
    },
)
