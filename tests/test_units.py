"""Numbers as people read them."""

import pytest

from slimjax import units
from slimjax.tasks import Metric


@pytest.mark.parametrize(
  'value, text',
  [
    (0, '0'),
    (7, '7'),
    (999, '999'),
    (1000, '1.00 k'),
    (999_499, '999 k'),
    (999_500, '1.00 M'),
    (829_600, '830 k'),
    (11_600_000, '11.6 M'),
    (4_089_284_608, '4.09 G'),
    (5e15, '5000 T'),
    (0.25, '0.25'),
  ],
)
def test_counts_have_three_digits(value, text):
  assert units.count(value) == text


@pytest.mark.parametrize(
  'value, unit, text',
  [
    (4.166, '%', '4.17 %'),
    (0.01127, '', '0.0113'),
    (12.345, '', '12.3'),
    (1204.4, '', '1204'),
    (999.7, '', '1000'),
    (-0.5, '', '-0.5'),
  ],
)
def test_scores_show_what_differs(value, unit, text):
  assert units.score(value, unit) == text
  assert Metric('gap', 'mean gap', unit).text(value) == text


def test_sizes():
  assert units.size(512) == '512 B'
  assert units.size(1_314_159) == '1.31 MB'
  assert units.size(64_000_000_000) == '64.0 GB'
