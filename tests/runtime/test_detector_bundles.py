"""A bundle puts pictures where evaluations do: on the canvas that fits them."""

import detectors
import jax
import numpy as np
from photos import encoded
from PIL import Image
import pytest

import slimjax
from slimjax import runtime
from slimjax.data.coco.canvas import OnCanvas
from slimjax.data.preprocess import Normalise
from slimjax.runtime import bundle
from slimjax.tasks import Detection

CANVASES = ((64, 128), (128, 64))
RULE = OnCanvas(CANVASES[0], 64, 120, others=CANVASES[1:])
PREPROCESS = Normalise(0.4, 0.3)
SIZES = {  # pictures, and what of a canvas they become
  (50, 100): (0, (60, 120)),
  (100, 50): (1, (120, 60)),
  (200, 201): (0, (64, 64)),
}


@pytest.fixture(scope='module')
def network():
  model = detectors.tiny(widths=(0.5,), masks=False, keypoints=0)
  return model, slimjax.init(model, jax.random.key(0), image_size=64)


@pytest.fixture(scope='module')
def folder(network, tmp_path_factory):
  path = tmp_path_factory.mktemp('bundles') / 'tiny'
  runtime.export(
    *network,
    path,
    image_size=CANVASES[0],
    preprocess=PREPROCESS,
    predict=Detection().predict,
    outputs='detections',
    decode=RULE,
    class_names=('a', 'b', 'c'),
    keypoint_names=('head', 'tail'),
    skeleton=((0, 1),),
    batch_size=1,
    platforms=('cpu',),
  )
  return path


@pytest.fixture(scope='module')
def predictor(folder):
  return slimjax.load(folder)


def test_what_a_bundle_says_of_pictures(predictor):
  manifest = predictor.network.manifest
  assert manifest.image_sizes == CANVASES
  assert manifest.decode == {
    'rule': 'on_canvas',
    'canvases': CANVASES,
    'side': 64,
    'longest': 120,
    'orientation': 'exif',
  }
  assert manifest.skeleton == ((0, 1),)
  assert manifest.keypoint_names == ('head', 'tail')


def test_each_picture_goes_onto_its_canvas(network, predictor):
  rng = np.random.default_rng(0)
  pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
  found = predictor.predict(pictures)
  for picture, one, (canvas, hw) in zip(
    pictures, found, SIZES.values(), strict=True
  ):
    placed = RULE.place(picture)
    assert placed.image.shape == (*CANVASES[canvas], 3)
    assert tuple(placed.hw) == hw
    height, width = picture.shape[:2]
    assert (one.boxes <= [width, height, width, height]).all()
    assert set(one.names) <= {'a', 'b', 'c'}
  # An export compares the outputs of the first canvas alone.
  model, variables = network
  placed, one = RULE.place(pictures[1]), found[1]
  apply = jax.jit(slimjax.apply, static_argnums=0, static_argnames='width')
  images = PREPROCESS(placed.image[None])
  expected = apply(model, variables, images, placed.hw[None], width=0.5)
  assert len(one) == expected['valid'].sum() > 1
  boxes = np.asarray(expected['boxes'][0]) / np.tile(placed.scale[::-1], 2)
  np.testing.assert_allclose(one.boxes, boxes[: len(one)], atol=1e-2)


def test_a_file_is_read_upright_and_whole(predictor, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned by a quarter
  image = Image.fromarray(np.full((50, 100, 3), 90, np.uint8))
  path = tmp_path / 'turned.jpg'
  path.write_bytes(encoded(image, exif=exif))
  picture = predictor.read(path)
  assert picture.shape == (100, 50, 3)
  assert predictor.decode(path.read_bytes()).shape == (100, 50, 3)
  (of_file,), (of_array,) = predictor.predict(path), predictor.predict(picture)
  np.testing.assert_array_equal(of_file.boxes, of_array.boxes)
  assert of_file.boxes[:, 3].max() > 60  # in the turned picture


def test_canvases_that_are_given(predictor):
  canvas = np.zeros((1, *CANVASES[1], 3), np.uint8)
  outputs = predictor(canvas, hw=[[128, 50]])
  assert np.asarray(outputs['boxes'])[..., ::2].max() <= 50
  with pytest.raises(
    ValueError, match=r'64, 128, 3\] or \[b, 128, 64, 3\], got'
  ):
    predictor(canvas[:, :64])
  with pytest.raises(ValueError, match='from 1 to 128 rows and 64 columns'):
    predictor(canvas, hw=[[64, 128]])
  with pytest.raises(ValueError, match='which canvas they are of'):
    predictor.interpret(outputs)
  with pytest.raises(
    ValueError, match=r'a picture must be of .*, got \[9, 9\]'
  ):
    predictor.predict([canvas[0, :9, :9, 0]])
  # Preprocessed images are canvases.
  floating = PREPROCESS(canvas)[0]
  assert predictor.predict([floating])[0].boxes[:, 3].max() > 120


def test_a_canvas_without_its_program(folder):
  manifest = bundle.read_manifest(folder)
  path = folder / manifest.program(manifest.widths[0].predict, CANVASES[1])
  content = path.read_bytes()
  path.unlink()
  with pytest.raises(runtime.BundleError, match=f'has lost .*{path.name}'):
    slimjax.load(folder)
  # One of another canvas is not taken for it.
  path.write_bytes((folder / manifest.widths[0].predict).read_bytes())
  with pytest.raises(runtime.BundleError, match='bytes|changed'):
    slimjax.load(folder)
  path.write_bytes(content)
