import jax
import jax.numpy as jnp
import pytest
from helpers.configs import UNETS

from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.flops import largest_product, product_flops


def counted(function, *shapes):
    program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    return product_flops(program), largest_product(program)


def test_products_and_their_derivatives():
    flops, largest = counted(lambda a, b: jnp.sin(a @ b), (3, 5), (5, 7))
    assert flops == 2 * 3 * 5 * 7 and largest == 4 * (15 + 35 + 21)
    # Backwards, there is one more product for each operand.
    both, _ = counted(jax.grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), (0, 1)), (3, 5), (5, 7))
    assert both == 3 * flops
    batched, _ = counted(lambda a, b: jnp.einsum("hij,hjk->hik", a, b), (4, 3, 5), (4, 5, 7))
    assert batched == 4 * flops


def test_loops_are_counted_as_often_as_they_run():
    def body(x, _):
        return x @ x, None

    looped, largest = counted(lambda x: jax.lax.scan(body, x, None, length=11)[0], (6, 6))
    assert looped == 11 * 2 * 6**3 and largest == 4 * 3 * 36
    mapped, _ = counted(lambda x: jax.lax.map(lambda row: row @ row, x, batch_size=4), (12, 5))
    assert mapped == 12 * 2 * 5
    either, _ = counted(lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, lambda y: y @ y, x), (6, 6))
    assert either == 2 * 6**3
    remembered, _ = counted(jax.grad(lambda x: jnp.sum(jax.checkpoint(lambda y: y @ y)(x))), (6, 6))
    assert remembered >= 2 * 2 * 6**3


@pytest.mark.parametrize("name", ["sd-1.5", "if"])
def test_networks_agree_with_xlas_own_count(name):
    config = UNetConfig.from_json(UNETS[name] | {"sample_size": 16})
    model = UNet2DConditionModel(config)
    shapes = [(2, 16, 16, config.in_channels), (2,), (2, 77, config.text_dim)]
    params = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())
    inputs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    traced = jax.jit(model.apply).trace(params, *inputs)
    xla = traced.lower().cost_analysis()["flops"]
    # XLA leaves out what falls into the padding of convolutions, and adds what is no product.
    assert product_flops(traced.jaxpr) == pytest.approx(xla, rel=0.25)
