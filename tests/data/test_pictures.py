"""Pictures of every kind are read as they are shown, or say why not."""

import io
import struct
import sys
import zlib

import numpy as np
from photos import encoded
from photos import picture
from PIL import Image
from PIL import ImageOps
import pytest

from slimjax.data import pictures
from slimjax.data.jpeg import decode_centre_crop
from slimjax.data.jpeg import decode_random_crop
from slimjax.data.jpeg import DecodeError

RAMP = np.linspace(0.0, 1.0, 64)[None, :].repeat(48, 0)  # dark to bright


def _both(data, size=32):
  """Returns the central crop, and a random one of the whole."""
  return (
    decode_centre_crop(data, size, size),
    decode_random_crop(data, np.random.default_rng(0), size, 1.0),
  )


@pytest.mark.parametrize(
  'array, kind',
  [
    ((RAMP * 65535).astype(np.uint16), 'PNG'),
    ((RAMP * 65535).astype(np.uint16), 'TIFF'),
    ((RAMP * 3e6 - 1e6).astype(np.int32), 'TIFF'),
    (RAMP.astype(np.float32) * 0.01, 'TIFF'),
  ],
)
def test_deep_grey_keeps_its_shades(array, kind):
  """Today's viewers show a ramp, and so do we: not all white."""
  data = encoded(Image.fromarray(array), kind)
  image = decode_centre_crop(data, 48, 48)
  expected = np.round(RAMP * 255)[:, 8:56]
  assert (image == image[..., :1]).all()
  np.testing.assert_allclose(image[..., 0], expected, atol=1)
  assert decode_random_crop(data, np.random.default_rng(0), 32, 1.0).std() > 50


def test_values_that_are_no_numbers_are_refused():
  array = RAMP.astype(np.float32).copy()
  array[3, 3] = np.nan
  with pytest.raises(DecodeError, match='some of its pixels are not numbers'):
    _both(encoded(Image.fromarray(array), 'TIFF'))


def _transparent(mode):
  """Returns red with a transparent square, whose hidden colour is black."""
  image = Image.new('RGBA', (40, 40), (200, 10, 10, 255))
  image.paste((0, 0, 0, 0), (8, 8, 32, 32))
  if mode == 'P':
    image = image.quantize(4)
  return image


@pytest.mark.parametrize(
  'mode, kind',
  [('RGBA', 'PNG'), ('P', 'PNG'), ('RGBA', 'WEBP'), ('RGBA', 'GIF')],
)
def test_transparent_parts_are_white(mode, kind):
  image = decode_centre_crop(encoded(_transparent(mode), kind), 40, 40)
  assert (image[20, 20] == 255).all()
  np.testing.assert_allclose(image[2, 2], (200, 10, 10), atol=8)


def test_the_first_frame_of_an_animation_is_shown():
  frames = [Image.new('RGB', (20, 20), c) for c in ('red', 'blue', 'green')]
  data = encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:])
  assert (decode_centre_crop(data, 20, 20) == (255, 0, 0)).all()


def test_cmyk_shows_its_colours():
  photo = picture(0, 0)
  data = encoded(photo.convert('CMYK'), 'JPEG', quality=95)
  found = decode_centre_crop(data, 40, 40).mean((0, 1))
  np.testing.assert_allclose(found, np.asarray(photo).mean((0, 1)), atol=6)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_turned_upright_alike(kind, orientation):
  """In evaluation pixel by pixel, in training up to the filter."""
  rows, columns = np.mgrid[:60, :90]
  ramp = np.stack([rows * 4, columns * 2, 0 * rows], -1).astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  lossless = {'subsampling': 0, 'quality': 100} if kind == 'JPEG' else {}
  data = encoded(Image.fromarray(ramp), kind, exif=exif, **lossless)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  upright = upright.convert('RGB')
  expected = encoded(upright, 'PNG')
  image, cropped = _both(data)
  assert (image == decode_centre_crop(expected, 32, 32)).all()
  # The whole of a square part: its corners lie as in the upright photo.
  whole = decode_random_crop(data, np.random.default_rng(1), 32, 1.0)
  for crop in (cropped, whole):
    for channel in (0, 1):
      shown = np.asarray(upright, int)[..., channel]
      seen = crop[..., channel].astype(int)
      for axis in (0, 1):
        before = np.sign(np.round(np.diff(shown, axis=axis).mean(), 1))
        after = np.sign(np.round(np.diff(seen, axis=axis).mean(), 1))
        assert before == after


def test_damaged_exif_turns_nothing():
  data = encoded(picture(0, 0), 'JPEG')
  broken = data[:2] + b'\xff\xe1\x00\x20Exif\0\0II*\0\xff\xff\xff' + data[2:]
  assert pictures.orientation(broken) == 1
  assert pictures.orientation(b'no Exif\0\0 at all') == 1


def test_a_strip_takes_no_gigabytes(monkeypatch):
  made, resize = [], Image.Image.resize
  monkeypatch.setattr(
    Image.Image,
    'resize',
    lambda self, size, *a, **k: (
      made.append(size) or resize(self, size, *a, **k)
    ),
  )
  rng = np.random.default_rng(0)
  strip = rng.integers(0, 256, (2, 20000, 3), np.uint8)
  strip[:, 9990:10010] = (10, 200, 30)
  for array in (strip, strip.transpose(1, 0, 2)):
    data = encoded(Image.fromarray(array), 'PNG')
    image = decode_centre_crop(data, 224, 256)
    assert made == [(224, 224)]
    made.clear()
    assert image.shape == (224, 224, 3)
    assert (image == (10, 200, 30)).all()
  # The ends are not seen, so leaving them out changes nothing.
  mild = rng.integers(0, 256, (6, 120, 3), np.uint8)
  for ratio in (15, 16.5):
    array = mild[:, : int(6 * ratio)]
    whole = Image.fromarray(array).resize((int(64 * ratio), 64), 2)
    left = round((whole.width - 32) / 2)
    expected = np.asarray(whole.crop((left, 16, left + 32, 48)), int)
    found = decode_centre_crop(encoded(Image.fromarray(array), 'PNG'), 32, 64)
    np.testing.assert_allclose(found, expected, atol=1)


def test_what_is_no_picture_says_what_it_is():
  jpeg = encoded(picture(0, 0), 'JPEG')
  png = encoded(picture(0, 0), 'PNG')
  # A header that announces 40,000 x 30,000 pixels.
  header = b'IHDR' + struct.pack('>II', 40000, 30000) + png[24:29]
  huge = png[:12] + header + struct.pack('>I', zlib.crc32(header)) + png[33:]
  huge_jpeg = bytearray(jpeg)
  frame = jpeg.index(b'\xff\xc0')
  huge_jpeg[frame + 5 : frame + 9] = b'\x75\x30\x75\x30'
  for data, reason in {
    b'': 'is empty',
    b'<!DOCTYPE html><html>gone</html>': 'is HTML',
    b'\0\0\0\x18ftypheic\0\0\0\0mif1heic': 'is HEIC',
    b'\0\0\0\x18ftypisom\0\0\0\0': 'is a video',
    b'version https://git-lfs.github.com/spec/v1\n': 'is a pointer of Git LFS',
    b'just words': 'is text',
    b'\x01\x02\x03\x04': 'is of a kind that Pillow does not read',
    png[: len(png) // 2]: 'damaged: .*[Tt]runcated',
    jpeg[: len(jpeg) // 2]: 'damaged: .*[Tt]runcated',
    bytes(huge_jpeg): 'too large: 30,000 x 30,000 pixels are more than 178',
    huge: 'too large: more than 178,956,970 pixels',
  }.items():
    for decode in (decode_centre_crop, decode_random_crop):
      rest = (32, 36) if decode is decode_centre_crop else (
        np.random.default_rng(0), 32, 0.5
      )  # fmt: skip
      with pytest.raises(DecodeError, match=reason):
        decode(data, *rest)


def test_without_the_fast_decoder_the_pixels_are_the_same(monkeypatch):
  exif = Image.Exif()
  exif[0x0112] = 6
  data = encoded(picture(1, 2, (300, 200)), 'JPEG', exif=exif)
  fast = decode_centre_crop(data, 64, 73)
  monkeypatch.setitem(sys.modules, 'simplejpeg', None)
  assert (decode_centre_crop(data, 64, 73) == fast).all()
