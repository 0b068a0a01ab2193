"""`SlimNet`, what all networks share: their options, the meaning of a width."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import inspect
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from slimjax import checks
from slimjax.nn.conv import ConvNorm
from slimjax.nn.dense import SlimDense
from slimjax.nn.norm import statistics_dtype
from slimjax.widths import canonical
from slimjax.widths import check_widths
from slimjax.widths import find
from slimjax.widths import switch_name
from slimjax.widths import Width

# A layer that sets a width: its name, and the group of layers whose outputs are
# summed with its own (so that their channels must be equal), or None.
LayerName = tuple[str, str | None]
# Height and width of images in pixels, or one number for both.
Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
  """Returns (height, width); one number stands for both.

  Raises:
    ValueError: `size` is neither one nor two whole numbers above zero.
  """
  both = (size, size) if isinstance(size, int) else tuple(size)
  if len(both) != 2 or any(int(n) != n or n < 1 for n in both):
    raise ValueError(
      f'image_size must be pixels, or (height, width), got {size!r}'
    )
  return int(both[0]), int(both[1])


def _checked_dtype(dtype: Any) -> jnp.dtype:
  """Returns a type to compute in."""
  try:
    found = jnp.dtype(dtype)
  except TypeError as error:
    raise ValueError(
      f'dtype must be float32 or bfloat16, got {checks.shown(dtype)}'
    ) from error
  if found not in map(jnp.dtype, _DTYPES):
    raise ValueError(f'dtype must be one of {", ".join(_DTYPES)}, got {found}')
  wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
  if found == jnp.float64 and not wide:
    raise ValueError(
      'dtype float64 computes in float32 unless jax is told to:'
      " jax.config.update('jax_enable_x64', True); or take float32"
    )
  return found


_DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


def check_static(model: Any, call: str = '') -> None:
  """Raises TypeError if a network is traced by jax, as an argument of a jit.

  Args:
    model: what was given as the network.
    call: the jit as it should be; default: of a function of one's own.
  """
  if isinstance(model, jax.core.Tracer):
    raise TypeError(
      'the model is traced by jax.jit, but it must be static: '
      + (call or 'jax.jit(function, static_argnums=0) for a first argument')
    )


class SlimNet(nn.Module):
  """A network that runs at several widths.

  Attributes:
    num_classes: number of outputs of the classifier; default: 1000.
    widths: the widths that it is made for, floats or tuples of channels;
      default: (0.25, 0.5, 0.75, 1.0).
    dtype: dtype of the computation (jnp.float32, the default, or
      jnp.bfloat16); parameters, statistics and logits are float32.
    small_stem: whether the stem keeps the resolution where the published one
      strides, for small images; default: no. The parameters are the same.
    remat: whether the backward pass recomputes the activations of a block
      instead of keeping them; default: no.
    axis_name: mesh axis over which batch norm is synchronised; default: none.
    shared: paths of the variables that all widths share instead of having their
      own: ('norm', 'batch_stats') is plain batch normalisation, ('norm',)
      shares only scale and bias, ('norm/last', 'batch_stats/last') one layer.
      Default: none.
    folded: whether the norms have been folded into the convolutions
      (`slimjax.fold_batch_norm`); such a network has one width. Default: no.
  """

  num_classes: int = 1000
  widths: tuple[Width, ...] = (0.25, 0.5, 0.75, 1.0)
  dtype: Any = jnp.float32
  small_stem: bool = False
  remat: bool = False
  axis_name: str | None = None
  shared: tuple[str, ...] = ()
  folded: bool = False

  def __post_init__(self):
    checks.whole('num_classes', self.num_classes, least=1, most=2**24)
    for name in ('small_stem', 'remat', 'folded'):
      checks.flag(name, getattr(self, name))
    checks.listed('shared', self.shared, check=checks.text)
    object.__setattr__(self, 'widths', check_widths(self.widths))
    object.__setattr__(self, 'shared', tuple(self.shared))
    object.__setattr__(self, 'dtype', _checked_dtype(self.dtype))
    super().__post_init__()
    for width in self.widths:
      self._resolve(width)

  # Each family defines these methods from its table.

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    """Returns the layers that set a width, in order."""
    raise NotImplementedError

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    """Returns the active output channels of these layers at a uniform width."""
    raise NotImplementedError

  @nn.nowrap
  def check_channels(self, channels: tuple[int, ...]) -> None:
    """Raises ValueError if the channels break a rule of this family."""

  @nn.nowrap
  def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the smallest inputs the network takes, as shapes.

    Shape evaluation uses them. Override this for networks that need larger
    images, whose variables depend on the size, or that take other inputs.
    """
    return (jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),)

  @nn.nowrap
  def optional_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns what may be given behind the inputs of `example`, as shapes."""
    return ()

  def features(
    self, images: jax.Array, *, width: Width, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps {stage: [b, h, w, c]} alone, as a backbone gives them.

    No classifier is built: `init(..., method='features')` draws none.

    Raises:
      ValueError: this network has no stage maps to return.
    """
    # Flax binds a method anew; its parameters are those of the class.
    if 'features_only' not in inspect.signature(type(self).__call__).parameters:
      raise ValueError(
        f'{type(self).__name__} is no backbone, as it returns no stage maps:'
        ' __call__(self, images, *, width, train, features_only) returns'
        " {'stage1': map, ...} if features_only is true"
      )
    return self(images, width=width, train=train, features_only=True)

  # These methods say what a width means, for all families.

  @nn.nowrap
  def _resolve(self, width: Width) -> tuple[int, ...]:
    name = type(self).__name__
    if isinstance(width, tuple):
      channels = width
    else:
      channels = tuple(self.uniform_channels(width))
    layers = self.layer_names()
    if len(channels) != len(layers):
      raise ValueError(
        f'{name} has {len(layers)} layers that set a width, but {len(channels)}'
        f' channels are given: {channels}'
      )
    first: dict[str, tuple[str, int]] = {}
    for (layer, tie), count in zip(layers, channels, strict=True):
      if count < 1:
        raise ValueError(
          f'{name}: width {width} leaves {layer} with no channels; a wider one'
          ' is needed'
        )
      if tie is None:
        continue
      other, other_count = first.setdefault(tie, (layer, count))
      if count != other_count:
        raise ValueError(
          f'{name}: {layer} has {count} channels and {other} has {other_count},'
          ' but they are summed and must be equal'
        )
    self.check_channels(channels)
    return channels

  @property
  def full_channels(self) -> tuple[int, ...]:
    """Returns the channels of the parameters: each layer at its widest."""
    return tuple(
      max(counts)
      for counts in zip(
        *(self._resolve(width) for width in self.widths), strict=True
      )
    )

  @nn.nowrap
  def channels(self, width: Width) -> tuple[int, ...]:
    """Returns the active output channels of the layers that set a width.

    Args:
      width: a float, or the channels themselves, in the order of the layers.
        Any width that fits into the parameters is allowed, trained or not.

    Raises:
      ValueError: the width is not valid, or is wider than the parameters.
    """
    channels = self._resolve(canonical(width))
    full = self.full_channels
    for (layer, _), count, most in zip(
      self.layer_names(), channels, full, strict=True
    ):
      if count > most:
        raise ValueError(
          f'width {width} needs {count} channels in {layer}, but the parameters'
          f' have {most}; the widths are {self.widths}'
        )
    return channels

  @property
  def ordered_widths(self) -> tuple[Width, ...]:
    """Returns the widths, thinnest first."""
    return tuple(sorted(self.widths, key=lambda w: sum(self.channels(w))))

  @nn.nowrap
  def switch(self, width: Width) -> str:
    """Returns the key of a trained width's trees.

    Raises:
      ValueError: the width is not one of `widths`.
    """
    width = canonical(width)
    if width not in self.widths:
      raise ValueError(
        f'width {width} is not one of {self.widths}; train it, or calibrate its'
        ' batch norm, first'
      )
    return switch_name(width)

  @nn.nowrap
  def find_widths(self, names: Sequence[Any]) -> tuple[Width, ...]:
    """Returns the trained widths that `names` stand for, thinnest first.

    Args:
      names: numbers, channels or printed names; empty means all widths.

    Raises:
      ValueError: a name is not that of a trained width.
    """
    wanted = {find(name, self.widths) for name in names}
    for width in wanted:
      self.switch(width)
    return tuple(w for w in self.ordered_widths if not names or w in wanted)

  # These methods are pieces of a forward pass.

  @nn.nowrap
  def conv_norm(self, activation: Callable) -> Callable[..., ConvNorm]:
    """Returns `ConvNorm` with this network's options bound."""
    return functools.partial(
      ConvNorm,
      activation=activation,
      folded=self.folded,
      axis_name=self.axis_name,
      dtype=self.dtype,
    )

  @nn.nowrap
  def run_block(
    self, block: nn.Module, inputs: jax.Array, *channels: int, train: bool
  ) -> jax.Array:
    """Applies a block; `remat` decides whether its activations are kept."""

    def run(block, inputs):
      return block(inputs, *channels, train=train)

    return (nn.remat(run) if self.remat else run)(block, inputs)

  @nn.nowrap
  def classify(self, maps: jax.Array) -> jax.Array:
    """Averages over the maps and classifies: [b, h, w, c] -> [b, num_classes].

    Both compute in float32 at least: logits in bfloat16 would tie.
    """
    maps = non_empty(maps, 'the last map')
    dtype = statistics_dtype(maps.dtype)
    features = jnp.mean(maps, axis=(1, 2), dtype=dtype)
    return SlimDense(
      self.num_classes, dtype=statistics_dtype(self.dtype), name='classifier'
    )(features)


def backbone_of(model: SlimNet) -> SlimNet | None:
  """Returns the network that is part of another as its attribute `backbone`.

  It has the other's widths, and its variables stand under that name. None if
  the network has no backbone.
  """
  found = getattr(model, 'backbone', None)
  return found if isinstance(found, SlimNet) else None


def non_empty(maps: jax.Array, what: str) -> jax.Array:
  """Returns `maps` [b, h, w, c]; raises ValueError if no pixels are left."""
  if 0 in maps.shape[1:3]:
    raise ValueError(
      f'{what} is empty, {maps.shape[1]}x{maps.shape[2]}: the images are too'
      ' small for this network; use larger ones, or small_stem=True'
    )
  return maps
