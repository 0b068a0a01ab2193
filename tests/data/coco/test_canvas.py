"""How large pictures are made, and which way is up."""

import numpy as np
from photos import encoded
from PIL import Image
import pytest

from slimjax.data.coco.canvas import OnCanvas
from slimjax.data.coco.canvas import Resize
from slimjax.data.coco.pixels import decode_annotated
from slimjax.data.coco.pixels import stored_size
from slimjax.data.jpeg import decode_whole
from slimjax.data.jpeg import DecodeError

COCO = ((800, 1344), (1344, 800))


@pytest.mark.parametrize(
  'size, canvas, made',
  [
    ((480, 640), COCO[0], (800, 1067)),
    ((640, 480), COCO[1], (1067, 800)),
    ((427, 640), COCO[0], (800, 1199)),
    ((240, 640), COCO[0], (500, 1333)),  # the longer side rules
    ((500, 500), COCO[0], (800, 800)),
    ((3000, 4000), COCO[0], (800, 1067)),
    ((480, 640), (256, 256), (192, 256)),  # the canvas rules
    ((2, 5000), COCO[0], (1, 1333)),  # never less than a pixel
  ],
)
def test_sizes_are_the_published_rule_within_the_canvas(size, canvas, made):
  placed = Resize(800, 1333).place(np.zeros((*size, 3), np.uint8), canvas)
  assert placed.image.shape == (*canvas, 3)
  assert placed.hw.tolist() == list(made)
  assert placed.original.tolist() == list(size)
  # What was really applied, not what was asked for.
  np.testing.assert_allclose(placed.scale, np.array(made) / size, rtol=1e-6)


def test_pictures_are_kept_where_no_side_is_asked_for():
  picture = np.random.default_rng(0).integers(0, 256, (50, 30, 3), np.uint8)
  placed = Resize(None).place(picture, (64, 64))
  assert (placed.image[:50, :30] == picture).all()
  assert not placed.image[50:].any()
  assert not placed.image[:, 30:].any()
  assert placed.scale.tolist() == [1, 1]
  assert Resize(None).place(picture, (32, 64)).hw.tolist() == [32, 19]


def test_a_picture_goes_where_it_is_largest():
  sizes = np.array([(480, 640), (640, 480), (500, 500), (100, 900), (9, 9)])
  assert Resize(800, 1333).choose(sizes, COCO).tolist() == [0, 1, 0, 0, 0]
  canvases = ((128, 128), (96, 128), (128, 96))
  sizes = np.array([(128, 96), (90, 120), (128, 128), (50, 50), (128, 40)])
  # Of canvases that do no harm, the smallest.
  assert Resize(None).choose(sizes, canvases).tolist() == [2, 1, 0, 1, 2]


@pytest.mark.parametrize('size', [(48, 64), (64, 96), (200, 300), (320, 480)])
def test_pixels_go_where_the_scale_says(size):
  """A ramp tells: pixel centres are mapped by the scale, with no shift."""
  height, width = size
  columns = np.broadcast_to(np.linspace(20, 220, width), size)
  rows = np.broadcast_to(np.linspace(20, 220, height)[:, None], size)
  picture = np.stack([rows, columns, rows], -1).round().astype(np.uint8)
  placed = Resize(96).place(picture, (96, 160))
  (down, across), (made_height, made_width) = placed.scale, placed.hw
  y = (np.arange(made_height) + 0.5) / down - 0.5
  x = (np.arange(made_width) + 0.5) / across - 0.5
  inner = slice(2, -2)
  found = placed.image[:made_height, :made_width]
  np.testing.assert_allclose(
    found[inner, made_width // 2, 0],
    (20 + y * 200 / (height - 1))[inner],
    atol=2,
  )
  np.testing.assert_allclose(
    found[made_height // 2, inner, 1],
    (20 + x * 200 / (width - 1))[inner],
    atol=2,
  )


def test_a_served_picture_is_upright_on_the_canvas():
  image = Image.new('RGB', (30, 20), (200, 10, 10))
  exif = Image.Exif()
  exif[0x0112] = 6  # shown turned by a quarter
  turned = encoded(image, exif=exif)
  on_canvas = OnCanvas((64, 64), side=32)
  placed = on_canvas.place(decode_whole(turned))
  assert placed.original.tolist() == [30, 20]
  assert placed.hw.tolist() == [48, 32]
  assert (on_canvas(turned) == placed.image).all()
  with pytest.raises(DecodeError, match='is text'):
    on_canvas(b'no picture')


def test_boxes_belong_to_the_picture_as_it_is_stored():
  """But for a file whose height and width are those of the turned one."""
  pixels = np.zeros((20, 30, 3), np.uint8)
  pixels[:, 20:] = 250
  exif = Image.Exif()
  exif[0x0112] = 6
  for kind in ('JPEG', 'PNG'):
    file = encoded(Image.fromarray(pixels), kind, exif=exif)
    assert stored_size(file) == (20, 30)
    stored = decode_annotated(file, np.array([20, 30]))
    assert stored[10, 25].min() > 200 > 50 > stored[10, 5].max()
    upright = decode_annotated(file, np.array([30, 20]))
    assert upright[25, 10].min() > 200 > 50 > upright[5, 10].max()
    with pytest.raises(DecodeError, match='20 x 30 .* annotations say 31 x 20'):
      decode_annotated(file, np.array([20, 31]))
  exif[0x0112] = 3  # upside down: sizes do not tell
  file = encoded(Image.fromarray(pixels), exif=exif)
  assert decode_annotated(file, np.array([20, 30]))[10, 25].min() > 200
