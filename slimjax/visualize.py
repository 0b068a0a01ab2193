"""Shows what a run learned: figures 3 and 4 of the paper, and one number more.

python -m slimjax.visualize --workdir=runs/digits [--layer=unit3/pointwise]
  [--channel=9] [--images=10] [--split=test] [--shallow=stem] [--deep=LAYER]
  [--out=DIR]

Writes activations.png, norms.png, divergence.png and divergence.json; what they
show is said in `slimjax.analysis.figures`.
"""

from collections.abc import Sequence

from absl import flags

from slimjax import cli
from slimjax.analysis.figures import visualize_run


def main(argv: Sequence[str]) -> None:
  for path in visualize_run(
    _WORKDIR.value,
    _OUT.value,
    layer=_LAYER.value,
    channel=_CHANNEL.value,
    shallow=_SHALLOW.value,
    deep=_DEEP.value,
    images=_IMAGES.value,
    split=_SPLIT.value,
    best=_CHECKPOINT.value == 'best',
  ):
    print(f'written: {path}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the training run.', required=True
  )
  _OUT = flags.DEFINE_string(
    'out', None, 'Folder to write to. Default: WORKDIR/features.'
  )
  _LAYER = flags.DEFINE_string(
    'layer',
    None,
    'Layer whose activations are shown. Default: a quarter into the depth.',
  )
  _CHANNEL = flags.DEFINE_integer(
    'channel',
    None,
    'Channel whose activations are shown, counted among those that all widths'
    ' have. Default: 9, or 0 if there are fewer.',
  )
  _SHALLOW = flags.DEFINE_string(
    'shallow', None, 'Layer whose norms are shown. Default: the first.'
  )
  _DEEP = flags.DEFINE_string(
    'deep', None, 'Another layer whose norms are shown. Default: the last.'
  )
  _IMAGES = flags.DEFINE_integer('images', 10, 'Number of images per width.')
  _SPLIT = flags.DEFINE_string(
    'split', 'test', 'Split of the data set: test, train or held_out.'
  )
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint',
    'latest',
    ['latest', 'best'],
    'Checkpoint to show: the latest, or the one with the least validation'
    ' error.',
  )
  cli.run(main)
