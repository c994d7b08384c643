"""T5's encoder one layer at a time: the same numbers, and the memory of one layer.

At true size, 9.5 GB of random weights on disk: pytest -m slow -s
tests/diffusion/test_t5_streaming.py
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.configs import reference_config
from helpers.torch_models import compile_fast, relative_error
from safetensors.numpy import save_file

from dreamfusion_jax.diffusion.checkpoints.tensors import Tensor, WeightsError, open_tensors
from dreamfusion_jax.diffusion.checkpoints.weights import load_params, param_shapes
from dreamfusion_jax.diffusion.t5 import T5Config, T5EncoderModel
from dreamfusion_jax.diffusion.t5_streaming import encode_layer_by_layer

FULL = reference_config("IF-I-XL-v1.0", "text_encoder")
SMALL = {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 560,
    "num_layers": 5,
    "num_heads": 4,
    "vocab_size": 300,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 24,
}
CONFIG = T5Config.from_json(FULL | SMALL)


def torch_names(config):
    """Names and shapes of a T5 encoder's tensors, as transformers saves them."""
    inner, width, wide = config.num_heads * config.d_kv, config.d_model, config.d_ff
    yield "shared.weight", (config.vocab_size, width)
    for i in range(config.num_layers):
        at = f"encoder.block.{i}.layer"
        for name in "qkv":
            yield f"{at}.0.SelfAttention.{name}.weight", (inner, width)
        yield f"{at}.0.SelfAttention.o.weight", (width, inner)
        if i == 0:
            buckets = config.relative_attention_num_buckets
            yield (
                f"{at}.0.SelfAttention.relative_attention_bias.weight",
                (buckets, config.num_heads),
            )
        yield f"{at}.0.layer_norm.weight", (width,)
        yield f"{at}.1.DenseReluDense.wi_0.weight", (wide, width)
        yield f"{at}.1.DenseReluDense.wi_1.weight", (wide, width)
        yield f"{at}.1.DenseReluDense.wo.weight", (width, wide)
        yield f"{at}.1.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def write_shards(folder, config, shards):
    """Random weights in bfloat16, in files that no shard outgrows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = list(torch_names(config))
    sizes = np.cumsum([np.prod(shape) for _, shape in names])
    where = np.minimum(sizes * shards // (sizes[-1] + 1), shards - 1)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = {}
        for (name, shape), at in zip(names, where, strict=True):
            if at != shard:
                continue
            weight_map[name] = file
            if len(shape) == 1:
                value = 1 + 0.1 * rng.standard_normal(shape, dtype=np.float32)
            else:
                # Of one block of noise: drawing five billion numbers would take minutes.
                block = rng.standard_normal(min(np.prod(shape), 1 << 22), dtype=np.float32)
                scale = 1.0 if name == "shared.weight" else shape[1] ** -0.5
                # T5 does not scale its logits; its initialization scales the queries.
                scale *= config.d_kv**-0.5 if name.endswith("q.weight") else 1.0
                value = np.resize((scale * block).astype(ml_dtypes.bfloat16), shape)
            tensors[name] = value.astype(ml_dtypes.bfloat16)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def inputs(config, texts, seed=0):
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (texts, 77)).astype(np.int32)
    lengths = np.random.default_rng(seed + 1).integers(3, 78, texts)
    return ids, np.arange(77) < lengths[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    write_shards(folder, CONFIG, shards=3)
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


def test_the_same_numbers_as_the_whole_encoder(folder):
    ids, mask = inputs(CONFIG, 3)
    model = T5EncoderModel(CONFIG)
    whole = compile_fast(model.apply)({"params": load_params(folder, model)}, ids, mask)
    ours = encode_layer_by_layer("t5", open_tensors(folder), CONFIG, ids, mask)
    error = relative_error(ours, whole)
    print(f"layer by layer against whole: {error:.1e}")
    assert ours.dtype == jnp.float32 and error < 2e-6


def test_only_what_is_needed_is_read_and_only_a_layer_is_kept(folder):
    """Rows of the table for the tokens at hand; parameters of one layer at a time."""
    ids, mask = inputs(CONFIG, 2)
    read, held = {}, []

    def watch(name, tensor):
        def read_part(index):
            part = tensor[index]
            read[name] = read.get(name, 0) + part.size
            held.append(sum(array.nbytes for array in jax.live_arrays()))
            return part

        return Tensor(tensor.shape, tensor.dtype, read_part)

    tensors = {name: watch(name, tensor) for name, tensor in open_tensors(folder).items()}
    before = sum(array.nbytes for array in jax.live_arrays())
    encode_layer_by_layer("t5", tensors, CONFIG, ids, mask)
    assert read.pop("shared.weight") == len(np.unique(ids)) * CONFIG.d_model
    assert read == {name: np.prod(tensors[name].shape) for name in read}
    assert len(read) == len(tensors) - 1
    layer = sum(
        4 * np.prod(shape) for name, shape in torch_names(CONFIG) if "encoder.block.1." in name
    )
    states = 2 * (ids.size * CONFIG.d_model * 4)
    assert max(held) - before < layer + states + 4 * 4 * 77 * 77 + 10_000


def test_what_is_missing_is_named_before_anything_is_read(folder):
    def never(index):
        pytest.fail("read")

    tensors = {n: Tensor(t.shape, t.dtype, never) for n, t in open_tensors(folder).items()}
    del tensors["encoder.block.3.layer.1.DenseReluDense.wo.weight"]
    with pytest.raises(WeightsError, match=r"1 missing \(encoder.block.3.layer.1.Dense\S+wo"):
        encode_layer_by_layer("t5", tensors, CONFIG, *inputs(CONFIG, 1))


PROGRAM = """
import json, re, sys, threading, time
from pathlib import Path
sys.path.insert(0, "tests/diffusion"); sys.path.insert(0, "tests")
import jax
from dreamfusion_jax.diffusion.checkpoints.tensors import open_tensors
from dreamfusion_jax.diffusion.t5 import T5Config
from dreamfusion_jax.diffusion.t5_streaming import encode_layer_by_layer
import numpy as np
folder, texts = Path(sys.argv[1]), int(sys.argv[2])
config = T5Config.from_json(json.loads((folder / "config.json").read_text()))
peak, done = 0, False
def watch():
    global peak
    while not done:
        status = Path("/proc/self/status").read_text()
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))
        time.sleep(0.01)
thread = threading.Thread(target=watch); thread.start()
ids = np.random.default_rng(0).integers(0, config.vocab_size, (texts, 77)).astype(np.int32)
mask = np.arange(77) < 12 + np.arange(texts)[:, None]
begin = time.perf_counter()
out = np.asarray(encode_layer_by_layer("t5", open_tensors(folder), config, ids, mask))
seconds = time.perf_counter() - begin
done = True; thread.join()
print(json.dumps({"peak": peak / 2**20, "seconds": seconds, "mean": float(np.abs(out).mean()),
                  "finite": bool(np.isfinite(out).all())}))
"""


@pytest.mark.slow
def test_memory_and_time_at_true_size(tmp_path):
    config = T5Config.from_json(FULL)
    total = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(T5EncoderModel(config))))
    assert total == sum(np.prod(shape) for _, shape in torch_names(config)) == 4_762_310_656
    if shutil.disk_usage(tmp_path).free < 20e9:
        pytest.skip("needs 20 GB of free disk")
    try:
        begin = time.perf_counter()
        write_shards(tmp_path / "t5", config, shards=12)
        (tmp_path / "t5" / "config.json").write_text(json.dumps(FULL))
        size = sum(f.stat().st_size for f in (tmp_path / "t5").glob("*.safetensors"))
        assert size > 9.5e9
        print(f"{size / 1e9:.1f} GB written in {time.perf_counter() - begin:.0f} s")
        seconds = {}
        for texts in (1, 9):
            command = [sys.executable, "-c", PROGRAM, str(tmp_path / "t5"), str(texts)]
            root = Path(__file__).parents[2]
            run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
            found = json.loads(run.stdout.splitlines()[-1])
            seconds[texts] = found["seconds"]
            print(f"{texts} texts: {found}")
            assert found["finite"] and 0.1 < found["mean"] < 10
            assert found["peak"] < 2.0  # GiB that are not pages of files
        print(f"{(seconds[9] - seconds[1]) / 8:.1f} s a text beyond the first")
    finally:
        shutil.rmtree(tmp_path / "t5", ignore_errors=True)
