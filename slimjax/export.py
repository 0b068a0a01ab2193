"""Writes a run as a bundle: one folder that runs at any of its widths.

python -m slimjax.export --workdir=runs/digits --out=bundles/digits
  [--widths=0.25,1.0] [--calibrate] [--default_width=0.5] [--batch=1]
  [--platforms=cpu,cuda,tpu] [--format=jax,onnx] [--onnx_input=uint8]
"""

from collections.abc import Sequence

from absl import flags

from slimjax import cli
from slimjax import flag_lists
from slimjax.analysis.any_width import calibrate_missing
from slimjax.runtime.exporting import export_run
from slimjax.runtime.exporting import print_manifest
from slimjax.runtime.manifest import PLATFORMS
from slimjax.runtime.writer import FORMATS
from slimjax.runtime.writer import ONNX_INPUTS


def main(argv: Sequence[str]) -> None:
  if _CALIBRATE.value:
    best = _CHECKPOINT.value == 'best'
    calibrate_missing(_WORKDIR.value, _WIDTHS.value, best=best)
  manifest = export_run(
    _WORKDIR.value,
    _OUT.value,
    widths=_WIDTHS.value,
    default_width=_DEFAULT_WIDTH.value,
    batch_size=_BATCH.value,
    platforms=_PLATFORMS.value,
    formats=_FORMAT.value,
    onnx_input=_ONNX_INPUT.value,
    best=_CHECKPOINT.value == 'best',
  )
  print_manifest(manifest, _OUT.value)


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the training run.', required=True
  )
  _OUT = flags.DEFINE_string(
    'out', None, 'Folder of the bundle; it must not exist yet.', required=True
  )
  _WIDTHS = flag_lists.define_widths('Widths to write; all by default')
  _CALIBRATE = flags.DEFINE_bool(
    'calibrate', False, 'Whether widths that are new to the run are calibrated.'
  )
  _DEFAULT_WIDTH = flags.DEFINE_string(
    'default_width', None, 'Width where none is given. Default: the widest.'
  )
  _BATCH = flags.DEFINE_integer(
    'batch', None, 'Batch size that the programs take. Default: any.'
  )
  _PLATFORMS = flags.DEFINE_list(
    'platforms', list(PLATFORMS), 'Platforms that the programs are made for.'
  )
  _FORMAT = flags.DEFINE_list(
    'format', ['jax'], f'Formats to write, of {", ".join(FORMATS)}.'
  )
  _ONNX_INPUT = flags.DEFINE_enum(
    'onnx_input',
    'float32',
    list(ONNX_INPUTS),
    'Images that ONNX models take: preprocessed, or uint8 as they are decoded.',
  )
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Checkpoint to write.'
  )
  cli.run(main)
