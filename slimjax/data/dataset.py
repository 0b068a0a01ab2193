"""What a data set is to the programs."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses

import jax

from slimjax.data.batches import Batch
from slimjax.data.batches import Corrupt
from slimjax.data.batches import EvalReader
from slimjax.data.batches import read
from slimjax.data.batches import Share
from slimjax.data.batches import Split
from slimjax.data.batches import TrainReader


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Splits of images, and what is done to them on the device.

  Attributes:
    name: its name in the configuration.
    num_classes: number of classes, above all labels; 0 where there are none.
    class_names: one name per class, or empty.
    image_size: height and width in pixels.
    preprocessing: what `preprocess` does, in words.
    splits: `train`, `test`, and `held_out` if any was set aside.
    augment: (key, batch) -> batch for training: draws and preprocesses, what
      belongs to an image together with it. Runs on the device, once a step for
      all widths. Hashable, as `preprocess` is: they key compiled programs.
    preprocess: uint8 images [b, h, w, 3] -> floating images.
    workers: processes that read.
    max_corrupt: images that may be unreadable, over all processes; see
      `slimjax.data.batches.read`.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  image_size: int
  preprocessing: str
  splits: Mapping[str, Split]
  augment: Callable[[jax.Array, Batch], Batch]
  preprocess: Callable[[jax.Array], jax.Array]
  workers: int = 0
  max_corrupt: int = 0

  def describe(self) -> str:
    """Returns what it is in a line: classes, size, examples of each split."""
    classes = f'{self.num_classes} classes, ' if self.num_classes else ''
    splits = ', '.join(f'{len(s):,} {name}' for name, s in self.splits.items())
    size = self.image_size
    return f'{self.name}: {classes}images of {size} x {size} pixels: {splits}'

  def train_batches(
    self,
    batch_size: int,
    *,
    seed: int,
    steps: range,
    share: Share,
    corrupt: Corrupt | None = None,
  ) -> Iterator[Batch]:
    """Yields this process's part of the global batches of some steps."""
    reader = TrainReader(self.splits['train'], batch_size, seed, steps, share)
    corrupt = corrupt or Corrupt(self.max_corrupt)
    return read(reader, corrupt=corrupt, workers=self.workers)

  def eval_batches(
    self,
    split: str,
    batch_size: int,
    *,
    share: Share,
    corrupt: Corrupt | None = None,
  ) -> Iterator[Batch]:
    """Yields every example of a split once, padded and masked."""
    reader = EvalReader(self.splits[split], batch_size, share)
    corrupt = corrupt or Corrupt(self.max_corrupt)
    return read(reader, corrupt=corrupt, workers=self.workers)
