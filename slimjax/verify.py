"""Checks the files of a run or a bundle, and says what is whole.

python -m slimjax.verify RUN_OR_BUNDLE

Every file of a checkpoint is compared with the digests that were written with
it; every file of a bundle likewise, and its outputs with the stored ones. The
exit status is 1 if anything is damaged. Nothing is changed.
"""

from collections.abc import Sequence

from slimjax import cli
from slimjax import files
from slimjax.runtime import bundle
from slimjax.runtime.loading import load
from slimjax.training.runs import CONFIG
from slimjax.training.verifying import verify_run
from slimjax.widths import label


def main(argv: Sequence[str]) -> int:
  folder = files.expand(argv[1], 'the run or bundle')
  if (folder / bundle.MANIFEST).exists():
    network = load(str(folder))
    print(f'{bundle.MANIFEST}: whole, and so is every file it names')
    for width, difference in network.verify().items():
      print(f'width {label(width)}: outputs differ by {difference:.1e}')
    return 0
  if not any((folder / name).exists() for name in (CONFIG, 'checkpoints')):
    raise ValueError(
      f'{folder} is neither a run (no {CONFIG}) nor a bundle (no'
      f' {bundle.MANIFEST})'
    )
  damaged = 0
  for finding in verify_run(folder):
    print(f'{finding.name}: {finding.said}', flush=True)
    damaged += not finding.whole
  if damaged:
    print(f'{folder}: {damaged} parts are not whole')
  return 1 if damaged else 0


if __name__ == '__main__':
  cli.run(main, positionals='RUN_OR_BUNDLE')
