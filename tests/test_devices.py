"""What there is to compute on, and what is said about it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax import devices


def device(kind, platform="gpu", capability=None, memory=None):
    stats = None if memory is None else {"bytes_limit": memory}
    return SimpleNamespace(
        device_kind=kind,
        platform=platform,
        compute_capability=capability,
        memory_stats=lambda: stats,
    )


@pytest.mark.parametrize(
    ("at_hand", "dtype", "said"),
    [
        (device("NVIDIA H100 80GB HBM3", capability="9.0", memory=79 * 2**30), "bfloat16", "79.0"),
        (device("Tesla T4", capability="7.5", memory=15 * 2**30), "float16", "Tesla T4, 15.0 GiB"),
        (device("NVIDIA TITAN V", capability="7.0"), "float16", "NVIDIA TITAN V; pretrained"),
        (device("TPU v4", platform="tpu", memory=32 * 2**30), "bfloat16", "TPU v4, 32.0 GiB"),
        (device("cpu", platform="cpu"), "float32", "CPU with"),
    ],
)
def test_devices_are_described_and_choose_the_type(at_hand, dtype, said, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [at_hand])
    line = devices.describe_devices()
    assert said in line and line.endswith(f"compute in {dtype}") and "\n" not in line
    monkeypatch.setattr(jax, "devices", lambda: 4 * [at_hand])
    # The devices of a CPU are the same cores.
    four = line if at_hand.platform == "cpu" else f"4 x {line}"
    assert devices.describe_devices() == four


def test_an_accelerator_that_is_not_used_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    assert devices.unused_accelerator(tmp_path) is None
    (tmp_path / "accel0").touch()
    assert "jax[tpu]" in (devices.unused_accelerator(tmp_path) or "")
    (tmp_path / "nvidia0").touch()
    line = devices.unused_accelerator(tmp_path) or ""
    assert "jax[cuda13]" in line and "580" in line and "jax[cuda12]" in line and "525" in line
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.unused_accelerator(tmp_path) is None


def message_of(error, function):
    with pytest.raises(error) as caught, devices.device_errors("the UNet of x/y in float32"):
        jax.block_until_ready(function())
    message = str(caught.value)
    assert "\n" not in message and "the UNet of x/y in float32" in message
    return message


def test_running_out_of_memory_is_one_line():
    message = message_of(devices.OutOfMemoryError, lambda: jnp.zeros(1 << 44, jnp.int8))
    assert message.startswith("cpu: no memory for") and "16384.00 GiB" in message
    message = message_of(devices.OutOfMemoryError, lambda: np.zeros(1 << 60, np.int8))
    assert message.startswith("the host's memory does not suffice")
    # What an inner part says is kept.
    with (
        pytest.raises(devices.OutOfMemoryError, match="inner"),
        devices.device_errors("the outer"),
        devices.device_errors("the inner"),
    ):
        np.zeros(1 << 60, np.int8)


def test_the_words_of_a_gpu_are_understood():
    """As XLA's allocator has them; there is no GPU here to exhaust."""

    def fail():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\nmore"
        )

    assert "(the part that failed: 8.00 GiB)" in message_of(devices.OutOfMemoryError, fail)


def test_devices_that_cannot_be_had_are_one_line(monkeypatch):
    def devices_of():
        raise RuntimeError("Unable to initialize backend 'cuda': no CUDA\nmore")

    monkeypatch.setattr(jax, "devices", devices_of)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(devices.DeviceError, match=r"backend 'cuda'.*JAX_PLATFORMS=cuda") as caught:
        devices.describe_devices()
    assert "\n" not in str(caught.value)


def test_free_memory_is_what_others_have_left():
    free = devices.free_memory() or 0
    assert 0 < free <= (devices.device_memory() or 0)
    at_hand = device("NVIDIA H100", memory=80)
    at_hand.memory_stats = lambda: {"bytes_limit": 80, "bytes_in_use": 30}
    assert devices.free_memory(at_hand) == 50
    assert devices.free_memory(device("NVIDIA H100")) is None
    devices.require_memory(free // 2, "a half")
    with pytest.raises(devices.OutOfMemoryError, match=r"cpu: twice takes .*free: ask for less"):
        devices.require_memory(2 * free, "twice", "ask for less")


def test_cudnn_that_refuses_is_one_line():
    x = jnp.zeros((1, 8, 2, 64), jnp.bfloat16)

    def attend():
        return jax.nn.dot_product_attention(x, x, x, implementation="cudnn")

    message = message_of(devices.DeviceError, attend)
    assert message.startswith("cuDNN refuses")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^another$"), devices.device_errors("it"):
        raise RuntimeError("another")


def test_the_host_is_a_cpu_if_there_is_one(monkeypatch):
    assert devices.host_device().platform == "cpu"

    def local_devices(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return ["the default"]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert devices.host_device() == "the default"
