"""Slimmable networks against networks trained alone, on Fashion-MNIST.

    python experiments/fashion/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

FEW_FASHION = evidence.ROOT / 'configs' / 'few_fashion.py'


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments, FEW_FASHION)
  errors, comparisons = {}, {}
  for name in experiment.models():
    individual, slimmable = experiment.both(name)
    errors[name] = {'individual': individual, 'slimmable': slimmable}
    comparisons[name] = evidence.compare(individual, slimmable)
    columns = ('individual', individual, 'slimmable', slimmable)
    print(f'\n{name}\n{evidence.table(*columns)}')
    evidence.plot(
      experiment.out / f'{name}.png', f'{name} on Fashion-MNIST', errors[name]
    )
  experiment.write({'errors': errors, 'comparisons': comparisons})


if __name__ == '__main__':
  main()
