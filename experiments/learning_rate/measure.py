"""Does training several widths together need a smaller learning rate?

    python experiments/learning_rate/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

FACTOR = 0.5


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  errors, comparisons = {}, {}
  for name in experiment.models():
    kinds = ('individual', 'slimmable')
    full = dict(zip(kinds, experiment.both(name), strict=True))
    scaled = experiment.both(name, factor=FACTOR)
    half = dict(zip(kinds, scaled, strict=True))
    if name == 'mobilenet_v1' and not experiment.published:
      full['slimmable, 8 widths'] = experiment.eight(name)
      half['slimmable, 8 widths'] = experiment.eight(name, factor=FACTOR)
    pairs = [
      (f'{kind}, full rate', full[kind], 'half', half[kind]) for kind in full
    ]
    pairs.append(
      (
        'individual, half',
        half['individual'],
        'slimmable, half',
        half['slimmable'],
      )
    )
    for first, before, second, after in pairs:
      print(f'\n{name}\n{evidence.table(first, before, second, after)}')
      comparisons[f'{name}: {second} - {first}'] = evidence.compare(
        before, after
      )
    errors[name] = {
      **{f'{kind}, full rate': e for kind, e in full.items()},
      **{f'{kind}, half': e for kind, e in half.items()},
    }
    shown = {k: e for k, e in errors[name].items() if '8 widths' not in k}
    evidence.plot(
      experiment.out / f'{name}.png', f'{name} on few digits, two rates', shown
    )
  experiment.write({'errors': errors, 'comparisons': comparisons})


if __name__ == '__main__':
  main()
