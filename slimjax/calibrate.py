"""Makes a run answer at widths that it was not trained at.

python -m slimjax.calibrate --workdir=runs/digits --widths=0.3,0.62,@nets.json
  [--batches=5] [--batch_size=256] [--augmented=false] [--data_dir=DIR]

The statistics of batch normalisation are measured at each width on training
images, and kept beside the checkpoint, with the scores on the test split.
"""

from collections.abc import Sequence

from absl import flags

from slimjax import cli
from slimjax import flag_lists
from slimjax.analysis.any_width import calibrate_run
from slimjax.training.calibrated import BATCHES


def main(argv: Sequence[str]) -> None:
  calibrate_run(
    _WORKDIR.value,
    _WIDTHS.value,
    batches=_BATCHES.value,
    batch_size=_BATCH_SIZE.value,
    augmented=_AUGMENTED.value,
    data_dir=_DATA_DIR.value,
    best=_CHECKPOINT.value == 'best',
  )


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the training run.', required=True
  )
  _WIDTHS = flag_lists.define_widths('Widths to calibrate', required=True)
  _BATCHES = flags.DEFINE_integer(
    'batches', BATCHES, 'Number of training batches.', lower_bound=1
  )
  _BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', None, "Images in a batch. Default: the run's.", lower_bound=2
  )
  _AUGMENTED = flags.DEFINE_bool(
    'augmented', True, 'Whether the images are augmented as in training.'
  )
  _DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the data. Default: where the run found them.'
  )
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Checkpoint to calibrate.'
  )
  cli.run(main)
