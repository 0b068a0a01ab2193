"""Numbers as people read them."""

import pytest

from slimjax import units


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


def test_sizes():
  assert units.size(512) == '512 B'
  assert units.size(1_314_159) == '1.31 MB'
  assert units.size(64_000_000_000) == '64.0 GB'
