"""Where a page is served, and what a camera of the browser is here."""

import math
import socket
import types

import numpy as np
import pytest
from helpers.tiny import one_camera
from scipy.spatial.transform import Rotation

from dreamfusion_jax.viewer.painter import _camera_of
from dreamfusion_jax.viewer.server import LOCAL, PortError, address_of, open_server


def test_a_taken_port_is_refused_and_a_closed_page_gives_its_port_back():
    server = open_server(LOCAL, 0, "test")
    port = server.get_port()
    assert address_of(server) == f"http://127.0.0.1:{port}"
    with pytest.raises(PortError, match=f"port {port} of 127.0.0.1: .*; 0 takes any"):
        open_server(LOCAL, port, "test")
    server.stop()
    with socket.socket() as trial:
        assert trial.connect_ex((LOCAL, port)) != 0


@pytest.mark.parametrize(("host", "port"), [(LOCAL, 70_000), ("192.0.2.1", 0)])
def test_an_impossible_place_is_refused(host, port):
    with pytest.raises(PortError, match="cannot listen"):
        open_server(host, port, "test")


@pytest.mark.parametrize(("aspect", "shape"), [(2.0, (16, 32)), (0.5, (32, 16))])
def test_a_camera_of_the_browser_is_the_camera_that_it_is_here(aspect, shape):
    ours = one_camera(azimuth=0.7, elevation=0.3, distance=2.0)
    right, up, back = np.asarray(ours.rotation, np.float64).T
    x, y, z, w = Rotation.from_matrix(np.stack([right, -up, -back], -1)).as_quat()
    seen = types.SimpleNamespace(
        wxyz=np.array([w, x, y, z]), position=np.asarray(ours.position), fov=0.8, aspect=aspect
    )
    camera, height, width = _camera_of(types.SimpleNamespace(camera=seen), 16)
    assert (height, width) == shape
    np.testing.assert_allclose(camera.rotation, ours.rotation, atol=1e-6)
    # Half the height of the picture is seen at half the field of view.
    assert 0.5 * height / (float(camera.focal) * width) == pytest.approx(math.tan(0.4), rel=1e-5)
