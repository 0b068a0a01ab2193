"""Is one slimmable network as good as networks trained alone? (Table 3.)

    python experiments/slimmable_vs_individual/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  errors, tables, comparisons = {}, [], {}
  for name in experiment.models():
    individual, slimmable = experiment.both(name)
    errors[name] = {'individual': individual, 'slimmable': slimmable}
    comparisons[name] = evidence.compare(individual, slimmable)
    tables.append((name, 'individual', individual, 'slimmable', slimmable))

  for name, *columns in tables:
    print(f'\n{name}\n{evidence.table(*columns)}')
  for name, variants in errors.items():
    title = f'{name} on {experiment.config.stem}'
    evidence.plot(experiment.out / f'{name}.png', title, variants)
  experiment.write({'errors': errors, 'comparisons': comparisons})


if __name__ == '__main__':
  main()
