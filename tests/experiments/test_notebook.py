"""The tour runs, and its outputs as committed are whole and readable."""

import os
import re
import shutil

import nbclient
import nbformat
from places import ROOT
import pytest
import tiny_net

TOUR = ROOT / 'experiments' / 'notebooks' / 'slimjax_tour.ipynb'
BADGE = re.compile(
  r'https://colab\.research\.google\.com/github/(\w+/\w+)/blob/main/([\w/.]+)'
)
LINK = re.compile(r'https://github\.com/(\w+/\w+)(?:/tree/main/([\w/.]+))?')


def _read(path):
  return nbformat.read(path, as_version=4)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def _texts(cells):
  """Returns what the cells show that can be read."""
  for cell in cells:
    for output in cell.outputs:
      if output.output_type == 'stream':
        yield output.text
      for kind, text in output.get('data', {}).items():
        if kind.startswith('text/'):
          yield text


@pytest.mark.timeout(500)
def test_it_runs(tmp_path):
  """A copy of it outside the repository, one epoch of thin widths."""
  notebook = _read(shutil.copy(TOUR, tmp_path))
  client = nbclient.NotebookClient(
    notebook, timeout=400, resources={'metadata': {'path': str(tmp_path)}}
  )
  flags = (
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=1',  # the last one counts
    '--xla_llvm_disable_expensive_passes=true',
  )
  paths = (str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH'))
  client.execute(
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join(filter(None, paths)),
      'SLIMJAX_TOUR_EPOCHS': '1',
      'SLIMJAX_TOUR_MODEL': tiny_net.NAME,
      'SLIMJAX_TOUR_WIDTHS': '(0.125, 0.25)',
      'XLA_FLAGS': ' '.join(flags),
    }
  )
  said = '\n'.join(_texts(_code(notebook)))
  assert '1 epochs in' in said
  assert 'width 0.125' in said
  assert 'width 0.5' not in said
  # what it made is in a folder of its own, which is gone
  assert [path.name for path in tmp_path.iterdir()] == [TOUR.name]


def test_it_was_run_from_start_to_end():
  cells = _code(_read(TOUR))
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))


def test_outputs_are_clean():
  """Every cell shows pictures or short text; no error, warning or path."""
  cells = _code(_read(TOUR))
  assert all(cell.outputs for cell in cells)
  outputs = [output for cell in cells for output in cell.outputs]
  assert {output.output_type for output in outputs} == {
    'stream',
    'display_data',
  }
  assert {o.name for o in outputs if o.output_type == 'stream'} == {'stdout'}
  assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
  for text in _texts(cells):
    assert len(text.splitlines()) < 20
    assert not re.search('/(tmp|home|root|Users|usr|work)/|[Ww]arning', text)
  assert TOUR.stat().st_size < 400_000


def test_links_lead_to_one_repository_and_to_files_of_it():
  text = '\n'.join(cell.source for cell in _read(TOUR).cells)
  ((project, file),) = BADGE.findall(text)
  assert ROOT / file == TOUR
  assert f"REPOSITORY = 'https://github.com/{project}'" in text
  links = LINK.findall(text)
  assert {other for other, _ in links} == {project}
  for _, path in links:
    assert (ROOT / path).exists()
