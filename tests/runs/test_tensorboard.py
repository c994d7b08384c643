"""Events for TensorBoard, read back record by record."""

import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.tensorboard import FOLDER, TensorBoard


def events_in(folder):
    """Length, its checksum, the event, its checksum; and so on."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_numbers_and_pictures_come_back_as_they_were(tmp_path):
    (tmp_path / "shown").mkdir()
    Image.fromarray(np.full((4, 6, 3), 80, np.uint8)).save(tmp_path / "shown" / "000010.png")
    (tmp_path / "progress.csv").write_text("step,change\n1,0.5\n10,0.25\n")
    observer = TensorBoard(tmp_path)
    for step in (1, 5, 10, 12):
        observer(Moment(step, 12, lambda: None, {"opacity": jnp.asarray(step / 100)}))
    scalars, images = {}, {}
    for event in events_in(tmp_path / FOLDER):
        for value in event.summary.value:
            kind = images if value.HasField("image") else scalars
            kind[value.tag, event.step] = value
    assert {key: value.simple_value for key, value in scalars.items()} == {
        ("step/opacity", 1): pytest.approx(0.01),
        ("step/opacity", 10): pytest.approx(0.1),
        ("step/opacity", 12): pytest.approx(0.12),
        ("progress/change", 10): 0.25,
    }
    assert list(images) == [("shown", 10)]
    assert (images["shown", 10].image.height, images["shown", 10].image.width) == (4, 6)
