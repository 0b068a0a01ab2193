"""What happens to images on the device, inside compiled programs."""

import jax
import jax.numpy as jnp


def normalise(images, *, mean: float, std: float):
  """uint8 images in 0..255 -> float32 (images / 255 - mean) / std."""
  return (jnp.asarray(images, jnp.float32) / 255.0 - mean) / std


def random_affine(
  key: jax.Array,
  images: jax.Array,
  *,
  max_shift: float,
  max_degrees: float,
  max_zoom: float,
  fill: float | jax.Array = 0.0,
) -> jax.Array:
  """Turns, zooms and shifts every image by its own random amount.

  Each is uniform in plus or minus its maximum. Sampling is bilinear; what comes
  from outside is `fill`.

  Args:
    key: of `jax.random`.
    images: floating [b, h, w, c].
    max_shift: pixels, in each direction.
    max_degrees: of rotation about the centre.
    max_zoom: 0.1 is 10 % larger or smaller.
    fill: value of the outside.
  """
  batch, height, width, _ = images.shape
  draws = jax.random.uniform(key, (4, batch), minval=-1.0, maxval=1.0)
  down, right = draws[0] * max_shift, draws[1] * max_shift
  angle = jnp.deg2rad(draws[2] * max_degrees)
  zoom = 1.0 + draws[3] * max_zoom
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom

  def warp(image, down, right, cos, sin):
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2
    rows, columns = jnp.broadcast_arrays(rows - down, columns - right)
    source = jnp.stack(
      [
        cos * rows + sin * columns + (height - 1) / 2,
        cos * columns - sin * rows + (width - 1) / 2,
      ]
    )  # [2, h, w], where each pixel comes from

    def sample(channel):  # [h, w] -> [h, w]
      return jax.scipy.ndimage.map_coordinates(
        channel, list(source), order=1, mode='constant', cval=0.0
      )

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)

  return fill + jax.vmap(warp)(images - fill, down, right, cos, sin)
