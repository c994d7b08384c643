"""How much arithmetic a program asks for, counted before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def product_flops(program: ClosedJaxpr | Jaxpr) -> float:
    """Floating-point operations of a program's matrix products and convolutions.

    All else is left out, so this is a lower bound; in networks it is nearly everything. XLA's own
    analysis counts the body of a loop once; here it is counted as often as it is run, where that
    is known.

    Args:
        program: What `jax.jit(...).trace(...).jaxpr` or `jax.make_jaxpr` gives.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return math.fsum(map(_equation_flops, jaxpr.eqns))


def largest_product(program: ClosedJaxpr | Jaxpr) -> int:
    """Bytes of operands and result of the largest matrix product or convolution."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    largest = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            avals = [_array(variable) for variable in (*equation.invars, *equation.outvars)]
            largest = max(largest, sum(a.size * a.dtype.itemsize for a in avals))
        largest = max([largest, *map(largest_product, _inner(equation))])
    return largest


def _equation_flops(equation: JaxprEqn) -> float:
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _array(equation.invars[0]).shape
            terms = math.prod(shape[axis] for axis in contracted)
            return 2.0 * _array(equation.outvars[0]).size * terms
        case "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            _, inputs, *space = numbers.rhs_spec
            shape = _array(equation.invars[1]).shape
            terms = shape[inputs] * math.prod(shape[axis] for axis in space)
            # Where the input is dilated, most of what it is multiplied by are inserted zeros.
            terms /= math.prod(equation.params["lhs_dilation"])
            return 2.0 * _array(equation.outvars[0]).size * terms
        case "scan":
            inside = math.fsum(map(product_flops, _inner(equation)))
            return equation.params["length"] * inside
        case "cond":
            return max(map(product_flops, _inner(equation)))
    return math.fsum(map(product_flops, _inner(equation)))


def _array(variable: Any) -> Any:
    """Shape and type of an operand."""
    return variable.aval


def _inner(equation: JaxprEqn) -> Iterator[Any]:
    """The programs within an equation: bodies of loops, branches, what is compiled as a whole."""
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (Jaxpr, ClosedJaxpr)):
                yield part
