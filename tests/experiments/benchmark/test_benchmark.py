"""The benchmark: what it compares is the same, and its ratios are of rounds."""

import importlib
import importlib.util
import itertools
import math
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from data_pipelines.av_mnist import tree
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import loading
from experiments.benchmark import peers
from experiments.benchmark import programs
from experiments.benchmark import rules
from experiments.benchmark import steps
from experiments.benchmark import timing
from experiments.configs import av_mnist

# PyTorch is as large as all else together, and only these three tests need it.
needs_peers = pytest.mark.skipif(
  bool(peers.missing()), reason="TorchJD is not installed: '.[peers]'"
)
EVERY = mimo_jax.weightings.__all__
# Those that draw numbers of their own, or stop before the solution.
OTHERS = ('gradvac', 'graddrop', 'mgda', 'pcgrad')


def times(*rounds):
  return timing.Times(np.array(rounds), min(rounds))


def test_ratios_are_taken_within_rounds():
  """A machine that is ten times slower in one round changes no ratio."""
  ours, theirs = times(1.0, 20.0, 3.0), times(2.0, 60.0, 3.0)
  assert timing.ratio(theirs, ours) == 2.0
  comparison = timing.Comparison(ours, theirs)
  # Of the medians it would be 3 / 3.
  assert comparison.ratio == comparison.ratio_of_fastest == 2.0
  assert timing.Comparison(times(4.0, 5.0), times(2.0, 5.0)).ratio == 0.75
  assert math.isnan(timing.Comparison(ours).ratio)


def test_summary_is_the_median_and_names_the_least():
  comparisons = {
    name: timing.Comparison(times(2.0, 1.0), times(2.0 * factor, factor))
    for name, factor in (('one', 3.0), ('two', 0.5), ('three', 2.0))
  }
  assert timing.summary(comparisons) == (
    'median 2.00, least 0.50 (two); of the fastest calls: median 2.00, least'
    ' 0.50 (two)'
  )


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for what programs add to `now`."""
  clock = types.SimpleNamespace(now=0.0)
  fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
  monkeypatch.setattr(timing, 'time', fake)
  return clock


def test_programs_are_called_in_turn_and_the_first_call_is_not_counted(clock):
  called = []

  def program(name):
    def call():
      clock.now += 0.01 if name in called else 9.0
      called.append(name)

    return call

  taken = timing.interleaved({'a': program('a'), 'b': program('b')}, 3)
  assert ''.join(called) == 'ab' + 'ba' + 'ab' + 'ba'
  for each in taken.values():
    np.testing.assert_allclose(each.rounds, [0.01, 0.01, 0.01])
    np.testing.assert_allclose(each.fastest, 0.01)


def test_no_more_rounds_begin_when_time_is_up(clock):
  def call():
    clock.now += 1.0

  for seconds, rounds in ((0.0, 2), (3.5, 4), (99.0, 9)):
    taken = timing.interleaved({'one': call}, 9, seconds)
    assert taken['one'].rounds.shape == (rounds,)


def test_short_programs_are_timed_over_many_calls(clock):
  """So that a disturbed one does not count."""
  number = 0

  def call():
    nonlocal number
    number += 1
    clock.now += 1.0 if number % 7 == 0 else 2.0**-10

  taken = timing.interleaved({'one': call}, 4)['one']
  assert taken.rounds.tolist() == [2.0**-10] * 4
  # Two to see how long it takes; in each round, 6 that last 5 ms, and another.
  assert number == 2 + 4 * (1 + 6)


def test_table_tells_the_reason_of_a_difference_only_where_there_is_one():
  ours, theirs = times(1e-3, 1e-3), times(2e-3, 3e-3)
  differences = {'same': 1e-5, 'known': 0.5, 'unknown': 0.5, 'broken': math.nan}
  comparisons = {
    name: timing.Comparison(ours, theirs, difference)
    for name, difference in differences.items()
  }
  comparisons['alone'] = timing.Comparison(ours)
  reasons = {'same': 'a reason', 'known': 'a reason', 'unknown': ''}
  text = timing.table(comparisons, 'ms', reasons)
  header, _, *rows = (
    [cell.strip() for cell in line.strip('| ').split('|')]
    for line in text.splitlines()
  )
  names = 'rule/ours, ms/rounds/theirs/ratio/fastest/difference/reason'
  assert header == names.split('/')
  ends = {row[0]: row[3:] for row in rows}
  assert rows[0][:3] == ['same', '1.00', '2']
  assert ends['same'] == ['2.50', '2.50', '2.00', '1.0e-05']
  assert ends['known'][-2:] == ['5.0e-01', 'a reason']
  assert ends['unknown'][-1] == ends['broken'][-1] == 'DIFFERS'
  assert not any(ends['alone'])


def test_rows_conflict_and_are_well_conditioned():
  for size in (2, 3, 7):
    rows = programs.conflicting_rows(size, 20_000)
    assert (rows.shape, rows.dtype) == ((size, 20_000), np.float32)
    gramian = rows.astype(np.float64) @ rows.T
    lengths = np.sqrt(np.diagonal(gramian))
    assert np.linalg.cond(gramian) < 50
    assert np.all(np.diagonal(gramian / lengths / lengths[:, None], 1) < -0.3)
    assert lengths.min() > 0.6 and lengths.max() < 2.5
    assert np.ptp(lengths) > 0.1


def test_resnet18_has_62_leaves():
  """The numbers of torchvision's resnet18(num_classes=10)."""
  shapes = programs.resnet18_shapes()
  assert len(shapes) == 62
  assert sum(math.prod(shape) for shape in shapes) == 11_181_642
  assert sum(len(shape) == 4 for shape in shapes) == 20


def test_direction_is_that_of_the_rule_on_the_rows_in_order():
  rows = programs.conflicting_rows(3, 50)
  gradients = programs.as_gradients(rows, [(40,), (2, 5)])
  for row, gradient in zip(rows, gradients.values(), strict=True):
    assert [leaf.shape for leaf in gradient] == [(40,), (2, 5)]
    flat = np.concatenate([np.ravel(leaf) for leaf in gradient])
    assert flat.tolist() == row.tolist()
  observation = mimo_jax.Observation(
    jnp.ones(3), jnp.array(rows @ rows.T), jnp.array(rows)
  )
  for name in ('mean', 'mgda', 'trimmed_mean'):
    run, direction = programs.direction(name, gradients)
    rule = getattr(mimo_jax.weightings, name)()
    weights = rule.update(observation, rule.init(3))[0]
    expected = mimo_jax.combine(jnp.array(rows), weights)
    np.testing.assert_allclose(direction(run()), expected, 1e-5, 1e-6)


def test_weights_of_rules_with_any_needs_are_timed():
  root = np.array([[1.0, 0.0, 0.0], [-0.5, 0.8, 0.0], [0.3, 0.4, 2.0]])
  rules = {name: getattr(mimo_jax.weightings, name)() for name in EVERY}
  one_of_each = {
    (rule.needs, rule.extra_args): name
    for name, rule in rules.items()
    if rule.needs != 'jacobian'
  }
  assert len(one_of_each) >= 4
  for name in one_of_each.values():
    run, direction = programs.weights(name, root.astype(np.float32))
    weights = np.asarray(run()[0], np.float64)
    assert weights.shape == (3,) and np.all(np.isfinite(weights)), name
    np.testing.assert_allclose(direction(run()), weights @ root, rtol=1e-6)


def test_passes_compute_what_they_say():
  rows = programs.conflicting_rows(3, 500)
  result = {name: run() for name, run in programs.passes(3, 500).items()}
  for name in ('gramian', 'gramian, [K, P]', 'J @ J.T'):
    np.testing.assert_allclose(result[name], rows @ rows.T, rtol=1e-4)
  np.testing.assert_allclose(result['read'], rows.sum(1), atol=1e-5)
  np.testing.assert_allclose(result['sum of rows'], rows.sum(0), atol=1e-5)
  expected = np.array([0.5, 1.0, 1.5]) @ rows
  np.testing.assert_allclose(result['combine'], expected, atol=1e-5)
  assert jnp.array_equal(result['combine'], result['combine, [K, P]'])


def test_peers_are_weightings_of_ours():
  assert set(peers.PEERS) <= set(mimo_jax.weightings.__all__)
  assert set(rules.SOLVED) <= set(peers.PEERS)


def test_missing_peers_are_named_with_how_to_install_them(monkeypatch):
  find_spec = importlib.util.find_spec

  def without_two(name):
    return None if name in ('torch', 'ecos') else find_spec('math')

  monkeypatch.setattr(importlib.util, 'find_spec', without_two)
  assert peers.missing() == (
    "TorchJD is not timed, for want of torch, ecos; pip install '.[peers]' gets"
    ' it.'
  )
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
  assert peers.missing() == ''


LIMITS = {'with_peers': True, 'repeats': 2, 'seconds': 0.0}


@needs_peers
@pytest.mark.parametrize('size', [2, 7])
def test_directions_agree_with_torchjd(size):
  shapes = [(3, 50), (150,)]
  comparisons = rules.compare_directions(peers.PEERS, size, shapes, **LIMITS)
  assert set(comparisons) == set(peers.PEERS)
  for name, each in comparisons.items():
    if size < peers.PEERS[name].fewest:
      assert each.theirs is None
    elif name in OTHERS and (name, size) != ('pcgrad', 2):
      assert peers.PEERS[name].differs
    else:
      assert each.difference < timing.TOLERANCE, name


@needs_peers
def test_weights_agree_with_torchjd():
  comparisons = rules.compare_weights(peers.PEERS, 7, **LIMITS)
  assert set(comparisons) == set(peers.PEERS) - {'graddrop', 'trimmed_mean'}
  for name, each in comparisons.items():
    if name not in OTHERS:
      assert each.difference < timing.TOLERANCE, name


@needs_peers
def test_exact_minimum_norm_is_below_that_of_frank_wolfe():
  """Where the two differ, ours is the solution."""
  rows = programs.conflicting_rows(7, 500)
  ours = programs.direction('mgda', programs.as_gradients(rows, [(500,)]))
  theirs = peers.direction('mgda', peers.tensor(rows))
  one, other = (each.direction(each.run()) for each in (ours, theirs))
  assert np.linalg.norm(one) < 0.9999 * np.linalg.norm(other)


# The command line.


def test_rules_print_every_table():
  # A process of its own: how programs are dispatched cannot change later.
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
def one_layer(monkeypatch):
  """Encoders that compile soon."""
  monkeypatch.setattr(steps, '_LAYERS', ((4, 4),))


@pytest.mark.usefixtures('one_layer')
def test_gramians_are_timed_beside_joint_training(capsys):
  sizes = ['--batch_size=2', '--objectives=2', '--examples=2', '--chunk=1']
  sizes.append('--rules=pcgrad')
  benchmark.main(['gramians', '--repeats=2', *sizes])
  printed = capsys.readouterr().out
  assert 'Late fusion, batch 2, K = 4' in printed
  for row in (
    '`vjp_at_features`',
    'the same, pcgrad',
    '`two_passes`, K = 1',
    'chunks of 1',
  ):
    assert re.search(rf'\| {row} +\| +[\d.]+ \| +[\d.]+ \|', printed), row


def test_runs_one_by_one_are_timed_beside_all_at_once(capsys):
  benchmark.main(['together', '--repeats=2', '--runs=2', '--base_width=1'])
  printed = capsys.readouterr().out
  for row in ('at once', 'one by one'):
    assert re.search(rf'\| {row} +\| +[\d.]+ \| +[\d.]+ \| at once', printed)


@pytest.mark.usefixtures('one_layer')
def test_steps_are_timed_beside_joint_training(capsys):
  benchmark.main(['steps', '--repeats=2', '--batch_size=1'])
  text = capsys.readouterr().out
  names = ('joint', 'mimo', 'mimo alone', 'mgda', 'mgda on the fusion')
  references = dict.fromkeys(names, 'joint')
  references['mgda by encoder'] = 'mgda'
  references['value_and_jacobian'] = 'value_and_grad'
  for program, reference in references.items():
    pattern = rf'\| {program} +\| +[\d.]+ \| +[\d.]+ \| {reference} +\|'
    assert re.search(pattern, text), (pattern, text)


def test_benchmarks_are_listed_and_explain_themselves(capsys):
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


def test_benchmarks_say_what_they_cannot_do(monkeypatch, capsys):
  monkeypatch.setattr(peers, 'missing', lambda: 'no TorchJD here')
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  no_module = "No module named 'experiments.configs.mnist'"
  for arguments, message in (
    (['frobnicate'], "no benchmark 'frobnicate'"),
    (['rules', '--methods=mgda,frobnicate'], '--methods has frobnicate;'),
    (['rules', '--peers=yes'], 'no TorchJD here'),
    (['steps', '--repeats=1'], 'expected 2 or more, got 1'),
    (['steps', '--repeats=many'], "invalid int value: 'many'"),
    (['sweep', '--views=nine'], '--views=nine; expected one of'),
    (['memory', '--batch_size=3'], 'cannot be cut into 4 equal parts'),
    (['gramians', '--objectives=5'], 'cannot be cut into --objectives=5'),
    (['loading'], 'required: --data'),
    (['loading', '--data=mnist'], no_module),
    (['loading', '--data=handwritten'], 'nothing to time'),
  ):
    with pytest.raises(SystemExit) as ended:
      benchmark.main(arguments)
    assert message in f'{ended.value.code}{capsys.readouterr().err}'
  # TorchJD is insisted on only when told.
  assert not rules.announce_peers('auto')
  assert capsys.readouterr().out == 'no TorchJD here\n'
  assert not rules.announce_peers('no')
  assert capsys.readouterr().out == ''


# Stages of loading.


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
  """A sample of AV-MNIST, which is prepared where it is used first."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  tree.write_sample(tmp_path / 'av_mnist', train=48, test=5)
  return tmp_path / 'av_mnist'


def test_stages_are_timed_for_the_same_number_of_items(manual_dir, monkeypatch):
  config = av_mnist.get_config('smoke')
  config.data.batch_size = 8
  clock = itertools.count()
  # Each look at the clock takes a second; every call of a stage looks twice.
  fake = types.SimpleNamespace(perf_counter=lambda: float(next(clock)))
  monkeypatch.setattr(timing, 'time', fake)
  settings = {'items': 20, 'rounds': 3, 'num_workers': 0}
  taken = loading.measure(config, manual_dir, **settings)
  names = 'read/audio/image/bare loop/bare loop, stacked/loader'
  assert list(taken) == names.split('/')
  for name, times in taken.items():
    # Whole batches: 16 items a second, in three rounds.
    assert times.rounds.tolist() == [1 / 16] * 3, name
  *_, last = loading.table(taken).splitlines()
  assert last.split()[1:6:2] == ['loader', '16.0', '1.00']


def test_stages_are_printed_with_those_of_workers(manual_dir, capsys):
  options = ['--repeats=2', '--items=8', '--workers=1']
  data = ['--data=av_mnist:smoke', f'--manual_dir={manual_dir}']
  benchmark.main(['loading', *data, *options])
  assert '| loader, 1 workers ' in capsys.readouterr().out
