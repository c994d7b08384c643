"""GLB files in what others made for them: Khronos' validator, and three.js in a browser."""

import functools
import http.server
import json
import math
import shutil
import subprocess
import threading

import numpy as np
import pytest
from helpers.browser import errors_of, opened, picture_of, wait_until
from helpers.toys import toy

from dreamfusion_jax.evaluation.truth_metrics import psnr
from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.export.mesh import MeshConfig
from dreamfusion_jax.scene.camera import orbit

pytestmark = pytest.mark.browser

VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""

PAGE = """<!doctype html><body style="margin:0"><canvas id="view"></canvas>
<script type="importmap">{"imports": {"three": "./node_modules/three/build/three.module.js"}}
</script><script type="module">
import * as THREE from 'three';
import { GLTFLoader } from './node_modules/three/examples/jsm/loaders/GLTFLoader.js';
const canvas = document.getElementById('view');
const renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
renderer.setSize(128, 128);
const scene = new THREE.Scene();
scene.background = new THREE.Color(1, 1, 1);
const camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 10);
camera.position.set(0, 0, 2);
new GLTFLoader().load('FILE', loaded => {
  loaded.scene.traverse(part => {
    if (!part.isMesh) return;
    window.metalness = part.material.metalness;
    part.material = new THREE.MeshBasicMaterial(
      { map: part.material.map, vertexColors: part.material.vertexColors });
  });
  scene.add(loaded.scene);
  renderer.render(scene, camera);
  window.drawn = true;
});
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both programs are installed."""
    folder = tmp_path_factory.mktemp("viewers")
    npm = shutil.which("npm")
    assert npm, "these tests need npm: apt-get install npm"
    packages = ("gltf-validator@2.0.0-dev.3.10", "three@0.187")
    subprocess.run([npm, "install", "--prefix", folder, *packages], check=True)
    return folder


@pytest.fixture(scope="module", params=[256, 0], ids=["texture", "vertex colours"])
def file(request, folder):
    config = MeshConfig(resolution=64, faces=4000, texture=request.param)
    path = folder / f"toy-{request.param}.glb"
    save_mesh(toy().mesh(config), path)
    return path


def test_khronos_validator_finds_nothing_wrong(file):
    node = shutil.which("node")
    assert node
    said = subprocess.run(
        [node, "-e", VALIDATE, file], cwd=file.parent, capture_output=True, check=True
    ).stdout
    issues = json.loads(said)
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_three_sees_the_front_of_the_field(browser, file):
    """From +z, where glTF has the front, as the field looks from +x."""
    camera = orbit(1, 0.0, 2.0, 1.1)
    field = np.asarray(toy().look(camera, size=128, backdrop=1.0).colour[0])
    angle = math.degrees(2 * math.atan(0.5 / 1.1))
    source = PAGE.replace("FOV", f"{angle:.6f}").replace("FILE", file.name)
    file.with_suffix(".html").write_text(source)
    handler = functools.partial(_Quiet, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{file.stem}.html"
        with opened(browser, address) as page:
            wait_until(page, lambda: page.evaluate("window.drawn === true"))
            seen = picture_of(page.locator("#view")) / 255
            assert page.evaluate("window.metalness") == 0
            assert [e for e in errors_of(page) if "favicon" not in e and "404" not in e] == []
        server.shutdown()
    assert seen.shape == field.shape
    assert psnr(seen, field) > 24
    assert psnr(seen[:, ::-1], field) < psnr(seen, field) - 3
