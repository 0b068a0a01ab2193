"""Writes a run as a bundle: one folder that runs at any of its widths.

python -m slimjax.export --workdir=runs/digits --out=bundles/digits
  [--widths=0.25,1.0] [--batch=1] [--platforms=cpu,cuda,tpu] [--format=jax,onnx]
"""

from collections.abc import Sequence

from absl import app
from absl import flags
from absl import logging
from etils import epath
import numpy as np

from slimjax.runtime.bundle import Manifest
from slimjax.runtime.writer import export
from slimjax.runtime.writer import FORMATS
from slimjax.runtime.writer import PLATFORMS
from slimjax.training.log import read_metrics
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.widths import canonical
from slimjax.widths import Width

# Images of the test split that come with the bundle, to check it by.
_SAMPLE = 8


def export_run(
  workdir: epath.PathLike,
  out: epath.PathLike,
  *,
  widths: Sequence[Width] = (),
  batch_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  formats: Sequence[str] = ('jax',),
  best: bool = False,
) -> Manifest:
  """Writes the checkpoint of a run, with its validation errors.

  Args:
    workdir: of `slimjax.train`.
    out: a folder that does not exist yet.
    widths: all of the run unless told.
    batch_size, platforms, formats: see `slimjax.runtime.export`.
    best: the checkpoint with the least validation error, not the latest.
  """
  run, model, variables, step = load_run(workdir, best=best)
  dataset, headline = build_dataset(run), build_task(run).metrics[0]
  test = dataset.splits['test']
  sample = test.read_eval(np.arange(min(batch_size or _SAMPLE, len(test))))
  validated = [
    record
    for record in read_metrics(epath.Path(workdir))
    if (record['split'], record['step']) == ('validation', step)
  ]
  return export(
    model,
    variables,
    out,
    image_size=dataset.image_size,
    widths=widths,
    preprocess=dataset.preprocess,
    preprocessing=dataset.preprocessing,
    class_names=dataset.class_names,
    errors={
      canonical(r['width']): headline.error(r[headline.name]) for r in validated
    },
    validation={
      'data': dataset.name,
      'split': 'test',
      'examples': len(test),
      'step': step,
    },
    sample=sample['image'],
    batch_size=batch_size,
    platforms=platforms,
    formats=formats,
  )


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  manifest = export_run(
    _WORKDIR.value,
    _OUT.value,
    widths=[canonical(width) for width in _WIDTHS.value],
    batch_size=_BATCH.value,
    platforms=_PLATFORMS.value,
    formats=_FORMAT.value,
    best=_CHECKPOINT.value == 'best',
  )
  for entry in manifest.widths:
    error = '' if entry.error is None else f', {entry.error:.2f} % error'
    print(
      f'{entry.width}: {entry.macs / 1e6:.2f} M MACs,'
      f' {entry.prepared_bytes / 1e6:.2f} MB of weights{error}'
    )
  size = sum(file['bytes'] for file in manifest.files.values())
  print(
    f'{_OUT.value}: {size / 1e6:.1f} MB; the logits of every width are those of'
    ' the run'
  )


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.', required=True)
  _OUT = flags.DEFINE_string('out', None, 'New folder.', required=True)
  _WIDTHS = flags.DEFINE_list('widths', [], 'Default: all the run has.')
  _BATCH = flags.DEFINE_integer('batch', None, 'Default: any batch size.')
  _PLATFORMS = flags.DEFINE_list(
    'platforms', list(PLATFORMS), 'The programs are made for.'
  )
  _FORMAT = flags.DEFINE_list('format', ['jax'], f'Of {", ".join(FORMATS)}.')
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Which one.'
  )
  app.run(main)
