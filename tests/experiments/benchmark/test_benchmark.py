"""The command line: benchmarks print their tables and their help."""

import importlib
import re
import subprocess
import sys

import jax
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import peers
from experiments.benchmark import steps
from tests.experiments.report.made_up import tables_of


def test_rules_print_every_table():
  # In a separate process, since the way of dispatching cannot change later.
  result = subprocess.run(
    [
      sys.executable, '-m', 'experiments.benchmark', 'rules', '--repeats=2',
      '--seconds=0', '--parameters=100', '--objectives=3', '--peers=no',
      '--methods=mgda,mimo,trimmed_mean',
    ],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  for pattern in (
    r'\| J @ J.T +\| +[\d.]+ \| +[\d.]+ \| gramian',
    r'\| gramian, \[K, P\] +\| +[\d.]+ \| +[\d.]+ \| gramian',
    r'\| sum of rows +\| +[\d.]+ \| +[\d.]+ \| combine',
    r'direction, K = 3, 100 parameters:\n\n\| rule.* ours, ms .*\n.*\n\| mgda',
    r'weights, K = 3:\n\n\| rule .*ours, us .*\n.*\n\| mgda .*\n\| mimo .*\n',
    r'K = 3: [\d.]+ us from a mapping of scalars, [\d.]+ us from a vector',
    r'median rule of the Gramian, 100 parameters: [\d,]+ x MIMO',
    r'Slowest weights: \d+ us \(m\w+, K = 3\)',
  ):
    assert re.search(pattern, result.stdout), (pattern, result.stdout)


@pytest.fixture
def small(monkeypatch):
  """One encoder that compiles fast."""
  monkeypatch.setattr(steps, '_LAYERS', ((4, 4),))
  monkeypatch.setattr(steps, 'OBJECTIVES', ('fused', 'audio'))
  steps.network.cache_clear()


OF_GRAMIANS = ['`vjp_at_features`', 'the same, pcgrad', '`two_passes`, K = 1']
OF_STEPS = ['joint', 'mimo', 'mimo alone', 'mgda', 'mgda on the fusion']


@pytest.mark.usefixtures('small')
@pytest.mark.parametrize(
  ('arguments', 'references'),
  [
    (
      'gramians --batch_size=2 --objectives=2 --examples=2 --chunk=1'
      ' --rules=pcgrad',
      dict.fromkeys([*OF_GRAMIANS, 'chunks of 1']),
    ),
    (
      'together --runs=2 --base_width=1',
      dict.fromkeys(['at once', 'one by one'], 'at once'),
    ),
    (
      'steps --batch_size=1',
      dict.fromkeys(OF_STEPS, 'joint')
      | {'mgda by encoder': 'mgda', 'value_and_jacobian': 'value_and_grad'},
    ),
  ],
  ids=['gramians', 'together', 'steps'],
)
def test_programs_are_compared_with_one_of_them(arguments, references, capsys):
  benchmark.main([*arguments.split(), '--repeats=2'])
  found = [row for table in tables_of(capsys.readouterr().out) for row in table]
  rows = {row[0]: row[1:] for row in found}
  for name, reference in references.items():
    times, ratio, *rest = rows[name]
    assert float(times) >= 0 and float(ratio) > 0
    assert reference in (None, *rest), name


def test_empty_lists_leave_their_part_out(capsys):
  benchmark.main(['device', '--peers=no', '--batch_sizes=', '--objectives='])
  assert capsys.readouterr().out.count('\n') == 2  # the machine


def test_benchmarks_are_listed_and_have_help_texts(capsys):
  benchmark.main([])
  text = capsys.readouterr().out
  for name in benchmark.BENCHMARKS:
    assert f'\n  {name} ' in text
    with pytest.raises(SystemExit) as ended:
      benchmark.main([name, '--help'])
    assert ended.value.code == 0
    usage = capsys.readouterr().out
    module = importlib.import_module(f'experiments.benchmark.{name}')
    assert module.__doc__.strip() in usage
    assert all(option in usage for option in module.OPTIONS)


def test_benchmarks_refuse_wrong_arguments(monkeypatch, capsys):
  monkeypatch.setattr(peers, 'missing', lambda peer: f'no {peer} here')
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  no_module = "No module named 'experiments.configs.mnist'"
  for arguments, message in (
    (['frobnicate'], "no benchmark 'frobnicate'"),
    (['rules', '--methods=mgda,frobnicate'], ', mgda, '),
    (['rules', '--methods=mgda,frobnicate'], 'got frobnicate'),
    (['rules', '--objectives=2,x'], "invalid int value: '2,x'"),
    (['rules', '--parameters=9,x'], '--parameters has x; expected numbers, or'),
    (['rules', '--peers=maybe'], 'expected one of yes, no, auto, got maybe'),
    (['rules', '--peers=yes'], 'no TorchJD here'),
    (['device', '--peers=yes'], 'no PyTorch here'),
    (['steps', '--repeats=1'], 'expected 2 or more, got 1'),
    (['steps', '--repeats=many'], "invalid int value: 'many'"),
    (['sweep', '--views=nine'], '--views: expected one of six, th'),
    (['memory', '--batch_size=3'], 'cannot be cut into 4 equal parts'),
    (['gramians', '--objectives=5'], 'cannot be cut into --objectives=5'),
    (['loading'], 'required: --data'),
    (['loading', '--data=mnist'], no_module),
    (['loading', '--data=handwritten'], 'nothing to time'),
  ):
    with pytest.raises(SystemExit) as ended:
      benchmark.main(arguments)
    assert message in f'{ended.value.code}{capsys.readouterr().err}'
  # TorchJD is required only on request.
  assert not peers.announce('auto')
  assert capsys.readouterr().out == 'no TorchJD here\n'
  assert not peers.announce('no')
  assert capsys.readouterr().out == ''
