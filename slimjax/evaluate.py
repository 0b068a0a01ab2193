"""Evaluates a run, or the authors' PyTorch checkpoint, at each width.

python -m slimjax.evaluate --workdir=runs/digits [--widths=0.25,1.0]
  [--calibrate] [--data_dir=DIR] [--save_detections=DIR]
python -m slimjax.evaluate --config=resnet50 --checkpoint=FILE.pt
"""

from collections.abc import Sequence

from absl import app
from absl import flags

from slimjax import cli
from slimjax import flag_lists
from slimjax.analysis.any_width import calibrate_missing
from slimjax.analysis.scoring import evaluate
from slimjax.training import processes
from slimjax.training.runs import load_published
from slimjax.training.runs import load_run

__all__ = ['load_published', 'load_run']


def main(argv: Sequence[str]) -> None:
  with processes.joined():
    if _CALIBRATE.value:
      if _WORKDIR.value is None:
        raise app.UsageError('--calibrate is for a run; give --workdir')
      calibrate_missing(
        _WORKDIR.value, _WIDTHS.value, best=_CHECKPOINT.value == 'best'
      )
    evaluate(
      workdir=_WORKDIR.value,
      config=_CONFIG.value,
      checkpoint=_CHECKPOINT.value,
      widths=_WIDTHS.value,
      batch_size=_BATCH_SIZE.value,
      split=_SPLIT.value,
      data_dir=_DATA_DIR.value,
      save_detections=_SAVE_DETECTIONS.value,
    )


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the training run.')
  _CONFIG = cli.define_config(
    required=False, purpose='Configuration of a published network'
  )
  _WIDTHS = flag_lists.define_widths('Widths to evaluate; all by default')
  _CALIBRATE = flags.DEFINE_bool(
    'calibrate', False, 'Whether widths that are new to the run are calibrated.'
  )
  _BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', None, "Images in a batch. Default: the run's."
  )
  _CHECKPOINT = flags.DEFINE_string(
    'checkpoint',
    'latest',
    "latest or best of a run; or the file of the authors' network.",
  )
  _SPLIT = flags.DEFINE_string('split', 'test', 'test, train or held_out.')
  _DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the data. Default: where the run found them.'
  )
  _SAVE_DETECTIONS = flags.DEFINE_string(
    'save_detections',
    None,
    "Folder for what a detector finds, in COCO's results format.",
  )
  processes.define_flags()
  cli.run(main)
