"""Searches a supernet for the best channels of every layer under a target.

python -m slimjax.search --workdir=SUPERNET --out=DIR
  --target_macs=150e6,300e6 | --target_ms=2,4 [--device_table=FILE]

Writes DIR/nets.json (channels, MACs, parameters, latencies, errors), a plot,
and every step, by which a search that was stopped resumes. What was found is
trained by --config.model.widths=@DIR/nets.json.
"""

from collections.abc import Sequence

from absl import flags

from slimjax import cli
from slimjax import flag_lists
from slimjax.searching.command import search_run
from slimjax.searching.command import SPLITS
from slimjax.searching.running import STRATEGIES
from slimjax.searching.scoring import SCORES
from slimjax.training import processes


def main(argv: Sequence[str]) -> None:
  with processes.joined():
    search_run(
      _WORKDIR.value,
      _OUT.value,
      target_macs=[float(number) for number in _TARGET_MACS.value],
      target_ms=[float(number) for number in _TARGET_MS.value],
      device_table=_DEVICE_TABLE.value,
      split=_SPLIT.value,
      images=_IMAGES.value,
      batch_size=_BATCH_SIZE.value,
      data_dir=_DATA_DIR.value,
      best=_CHECKPOINT.value == 'best',
      strategy=_STRATEGY.value,
      score=_SCORE.value,
      step_of_unit=_STEP.value,
      minimum=_MINIMUM.value,
      keep=_KEEP.value,
    )


if __name__ == '__main__':
  string, number = flags.DEFINE_string, flags.DEFINE_integer
  choice = flags.DEFINE_enum
  _WORKDIR = string('workdir', None, 'Folder of the supernet.', required=True)
  _OUT = string('out', None, 'Folder to write to.', required=True)
  _TARGET_MACS = flag_lists.define_numbers('target_macs', 'MACs to reach.')
  _TARGET_MS = flag_lists.define_numbers('target_ms', 'Milliseconds to reach.')
  _DEVICE_TABLE = string(
    'device_table', None, 'Latencies; measured here if there is no such file.'
  )
  _SPLIT = choice('split', 'held_out', SPLITS, 'Images to score with.')
  _IMAGES = number('images', None, 'Number of images. Default: all.')
  _BATCH_SIZE = number('batch_size', None, 'Images normalised together.')
  _DATA_DIR = string('data_dir', None, 'Folder of the data, if they moved.')
  _STRATEGY = choice('strategy', 'greedy', [*STRATEGIES], 'How to search.')
  _SCORE = choice('score', 'loss', SCORES, 'What is kept low.')
  _STEP = number('step', None, 'Channels of a step. Default: a twelfth.')
  _MINIMUM = number('minimum', 8, 'Fewest channels of a layer.')
  _KEEP = flags.DEFINE_list('keep', [], 'Layers that are not slimmed.')
  _CHECKPOINT = choice('checkpoint', 'latest', ['latest', 'best'], 'Which.')
  processes.define_flags()
  cli.run(main)
