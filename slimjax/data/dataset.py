"""What a data set is to the programs."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses

import jax

from slimjax.data.batches import Batch
from slimjax.data.batches import EvalReader
from slimjax.data.batches import read
from slimjax.data.batches import Share
from slimjax.data.batches import Split
from slimjax.data.batches import TrainReader


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Splits of images, and what is done to them on the device.

  Attributes:
    name: as in the configuration.
    num_classes: labels are below it.
    class_names: by label.
    image_size: height and width, pixels.
    preprocessing: what `preprocess` does, in words.
    splits: `train`, `test`, and `held_out` if any was set aside.
    augment: (key, uint8 images [b, h, w, 3]) -> floating images, for training.
    preprocess: uint8 images [b, h, w, 3] -> floating images.
    workers: processes that read.
    max_corrupt: images that may be unreadable.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  image_size: int
  preprocessing: str
  splits: Mapping[str, Split]
  augment: Callable[[jax.Array, jax.Array], jax.Array]
  preprocess: Callable[[jax.Array], jax.Array]
  workers: int = 0
  max_corrupt: int = 0

  def train_batches(
    self, batch_size: int, *, seed: int, steps: range, share: Share
  ) -> Iterator[Batch]:
    """This process's part of the global batches of some steps."""
    reader = TrainReader(self.splits['train'], batch_size, seed, steps, share)
    return read(reader, workers=self.workers, max_corrupt=self.max_corrupt)

  def eval_batches(
    self, split: str, batch_size: int, *, share: Share
  ) -> Iterator[Batch]:
    """Every example of a split once, padded and masked."""
    reader = EvalReader(self.splits[split], batch_size, share)
    return read(reader, workers=self.workers, max_corrupt=self.max_corrupt)
