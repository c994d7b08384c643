"""What the machine does at best: a large product in each type, a large copy, a gather."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from dreamfusion_jax.benchmark.timing import Case, Measured

_FEATURES = 4
"""Of a row of the gathered table: what the fields' grids have."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large "large" is.

    Attributes:
        product: Rows and columns of the multiplied matrices.
        copy: Numbers that are copied.
        rows: Of the table that is gathered from.
        gathered: Rows that are gathered.
    """

    product: int
    copy: int
    rows: int
    gathered: int

    @classmethod
    def usual(cls) -> "Sizes":
        """Large enough for the default device to show what it can, small enough to wait for."""
        if jax.default_backend() == "cpu":
            return cls(product=1024, copy=1 << 25, rows=32**3, gathered=1 << 20)
        return cls(product=8192, copy=1 << 28, rows=1 << 19, gathered=1 << 24)


def ceiling_cases(sizes: Sizes, dtypes: Sequence[str]) -> Iterator[Case]:
    """The cases that are ceilings for all others.

    Args:
        sizes: Of the arrays.
        dtypes: Types of the products.
    """
    side = sizes.product
    for dtype in dtypes:
        matrix = jnp.full((side, side), 1.0 / side, dtype)
        yield Case.of(product_name(dtype), lambda a, b: a @ b, matrix, matrix, dtype=dtype)
    yield Case.of(COPY, lambda x: x + 1.0, jnp.zeros(sizes.copy))
    table = jnp.zeros((sizes.rows, _FEATURES))
    index = jax.random.randint(jax.random.key(0), (sizes.gathered,), 0, sizes.rows)
    yield Case.of(f"gather of rows of {_FEATURES}", lambda t, i: t[i], table, index)


COPY = "copy"


def product_name(dtype: str) -> str:
    """What the product of a type is called."""
    return f"product, {dtype}"


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The machine's best rates.

    Attributes:
        products: Operations a second by type.
        copy: Bytes a second.
    """

    products: dict[str, float]
    copy: float

    @classmethod
    def of(cls, measured: Sequence[Measured]) -> "Ceilings":
        """From what was measured of `ceiling_cases`."""
        rates = {
            row.dtype: row.flop_rate
            for row in measured
            if row.name == product_name(row.dtype) and row.flop_rate is not None
        }
        copies = [row.byte_rate for row in measured if row.name == COPY and row.byte_rate]
        return cls(rates, max(copies, default=0.0))

    def nearest(self, row: Measured) -> tuple[float, str] | None:
        """The share of the ceiling that a row comes nearest to, and which that is.

        Bytes as XLA counts them may come out of a cache, so that a share may be above one.
        """
        shares = []
        product = self.products.get(row.dtype)
        if row.flop_rate is not None and product:
            shares.append((row.flop_rate / product, product_name(row.dtype)))
        if row.byte_rate is not None and self.copy:
            shares.append((row.byte_rate / self.copy, COPY))
        return max(shares, default=None)
