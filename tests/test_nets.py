"""Networks by the names of a file: @nets.json on a command line."""

import json
import sys

from absl import flags
import pytest

from slimjax import cli
from slimjax import flag_lists
from slimjax import nets

CHANNELS = {'150M': (8, 16, 24), '80M': (8, 8, 16)}


@pytest.fixture
def path(tmp_path):
  found = [{'name': n, 'channels': [*c]} for n, c in CHANNELS.items()]
  file = tmp_path / 'nets.json'
  file.write_text(json.dumps({'nets': found}))
  return file


def test_all_channels_of_a_file_or_those_of_one_name(path):
  assert nets.expand(f'@{path}') == [*CHANNELS.values()]
  assert nets.expand(f'@{path}:80M') == [CHANNELS['80M']]
  widths = nets.expand_all(['0.5', f'@{path}', '0.25'])
  assert widths == ['0.5', *CHANNELS.values(), '0.25']


def test_errors_name_what_there_is(path):
  with pytest.raises(ValueError, match="no network '90M'; there are 150M, 80M"):
    nets.expand(f'@{path}:90M')
  with pytest.raises(FileNotFoundError, match='no file of networks .*absent'):
    nets.expand('@absent.json')
  path.write_text('{}')
  with pytest.raises(ValueError, match='as slimjax.search writes it: KeyError'):
    nets.expand(f'@{path}')


def test_a_configuration_records_the_channels(path, monkeypatch):
  values = flags.FlagValues()
  holder = cli.define_config(flag_values=values)
  arguments = [
    'program', '--config=digits', f'--config.model.widths=@{path}',
  ]  # fmt: skip
  monkeypatch.setattr(sys, 'argv', arguments)
  values(cli._last_overrides(arguments))
  assert holder.value.model.widths == tuple(CHANNELS.values())


def test_a_program_takes_them_among_its_widths(path):
  values = flags.FlagValues()
  holder = flag_lists.define_widths('Widths', flag_values=values)
  values(['program'])
  assert holder.value == []
  values(['program', f'--widths=0.3,@{path}:80M, 0.62'])
  assert holder.value == ['0.3', CHANNELS['80M'], '0.62']
  with pytest.raises(flags.IllegalFlagValueError, match="no network '90M'"):
    values(['program', f'--widths=@{path}:90M'])
