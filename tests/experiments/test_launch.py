"""The launch scripts, as far as they run without a cluster."""

import os
import shlex
import subprocess

from absl import flags
from places import ROOT
import pytest

from slimjax import cli

LAUNCH = ROOT / 'experiments' / 'launch'
CONFIG = 'configs/resnet50.py'


def _say(script, *arguments, **environment):
  """Returns the commands that a script would run."""
  done = subprocess.run(
    [LAUNCH / script, *arguments],
    cwd=ROOT,
    env={**os.environ, 'DRY_RUN': '1', **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return [_words(line) for line in done.stdout.splitlines()]


def _words(line):
  """Splits a line as bash does."""
  said = subprocess.run(
    ['bash', '-c', f"printf '%s\\0' {line}"],
    capture_output=True,
    text=True,
    check=True,
  )
  return said.stdout.split('\0')[:-1]


def _parse(arguments, monkeypatch):
  """Reads a command's flags as the program does; raises if one is unknown."""
  monkeypatch.setattr('sys.argv', ['train', *arguments])
  values = flags.FlagValues()
  holder = cli.define_config(flag_values=values)
  flags.DEFINE_string('workdir', None, 'Folder of the run.', flag_values=values)
  flags.DEFINE_string('coordinator', None, '', flag_values=values)
  flags.DEFINE_integer('process_count', None, '', flag_values=values)
  flags.DEFINE_integer('process_id', None, '', flag_values=values)
  left = values(['train', *arguments])
  assert left == ['train']
  return values, holder.value


@pytest.mark.parametrize('script', sorted(p.name for p in LAUNCH.glob('*.sh')))
def test_scripts_are_bash(script):
  subprocess.run(['bash', '-n', LAUNCH / script], check=True)
  assert os.access(LAUNCH / script, os.X_OK)


def test_gpu_hosts(monkeypatch):
  monkeypatch.chdir(ROOT)
  for index in ('0', '1'):
    (command,) = _say(
      'gpu_host.sh', CONFIG, '/shared/run', '/tfds', index,
      '--config.batch_size=512', COORDINATOR='host0:12345', HOSTS='2',
      PYTHON='python3',
    )  # fmt: skip
    assert command[:3] == ['python3', '-m', 'slimjax.train']
    values, config = _parse(command[3:], monkeypatch)
    assert (values.coordinator, values.process_count) == ('host0:12345', 2)
    assert values.process_id == int(index)
    assert values.workdir == '/shared/run'
    assert config.batch_size == 512
    assert config.data.data_dir == '/tfds'
    assert config.model.dtype == 'bfloat16'
  (command,) = _say('gpu_host.sh', CONFIG, '/run', '/tfds', COORDINATOR='')
  values, _ = _parse(command[3:], monkeypatch)
  assert values.coordinator is None


def test_tpu_slices(monkeypatch):
  monkeypatch.chdir(ROOT)
  commands = _say(
    'tpu_pod.sh', CONFIG, 'mine', '--config.epochs=90', PROJECT='p', ZONE='z',
    TYPE='v4-32', BUCKET='b', REPOSITORY='https://example.com/slimjax',
  )  # fmt: skip
  create, install, mount, train = commands
  assert create[:5] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'create']
  assert '--accelerator-type=v4-32' in create
  for command in (install, mount, train):
    assert command[:5] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh']
    assert {'--worker=all', '--project=p', '--zone=z'} <= set(command)
    script = command[-1].removeprefix('--command=')
    subprocess.run(['bash', '-n', '-c', script], check=True)
  assert "pip install -q -e '.[tpu,imagenet]'" in install[-1]
  line = train[-1].partition('slimjax.train ')[2]
  values, config = _parse(shlex.split(line), monkeypatch)
  assert values.workdir == '$HOME/bucket/runs/mine'
  assert config.epochs == 90


def test_slurm_starts_one_process_a_node(tmp_path):
  """With stand-ins for SLURM's own commands, on two nodes."""
  for name, body in (
    ('scontrol', 'echo node7; echo node8'),
    ('srun', 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done'),
  ):
    (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
    (tmp_path / name).chmod(0o755)
  commands = _say(
    'slurm.sh', CONFIG, '/shared/run', '/tfds', '--config.epochs=90',
    PATH=f'{tmp_path}:{os.environ["PATH"]}', SLURM_JOB_NODELIST='node[7-8]',
    SLURM_JOB_ID='3', SLURM_NNODES='2', SLURM_SUBMIT_DIR=str(ROOT),
  )  # fmt: skip
  assert len(commands) == 2
  for index, command in enumerate(commands):
    assert '--coordinator=node7:10003' in command
    assert '--process_count=2' in command
    assert f'--process_id={index}' in command
    assert command[-1] == '--config.epochs=90'


def test_wrong_calls_say_what_is_missing():
  done = subprocess.run(
    [LAUNCH / 'tpu_pod.sh', CONFIG],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode != 0
  assert 'a name for the run' in done.stderr
