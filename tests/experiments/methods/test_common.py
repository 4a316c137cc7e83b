"""Laws of all methods, on the recorded batch."""

import re

import chex
import jax
import pytest

import mimo_jax
from experiments import methods
from experiments.methods import common
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

MODULES = {k: v for k, v in vars(methods).items() if hasattr(v, 'SPACE')}
OF_CLASSES = {'agm', 'cml', 'mla', 'mmcosine', 'ogm', 'ogm_ge', 'pmr'}


def test_every_method_balances_with_the_rule_of_the_task(monkeypatch):
  """Or gives its own transformation the axis of the task's devices.

  Or it only adds losses up, and then never sees only a part of a batch.
  """
  library, mmpareto, calls = mimo_jax.balance, mimo_jax.mmpareto, []
  summed = common.summed

  def balance(*arguments, **options):
    calls.append('devices')
    return library(*arguments, **options)

  def record(*arguments, axis_name, **options):
    calls.append(axis_name)
    return mmpareto(*arguments, axis_name=axis_name, **options)

  def add_up():
    calls.append('adds up')
    return summed()

  monkeypatch.setattr(mimo_jax, 'balance', None)
  monkeypatch.setattr(common, 'summed', add_up)
  monkeypatch.setattr(mimo_jax, 'mmpareto', record)
  task = recorded.make_task()._replace(balance=balance, axis_name='devices')
  assert len(MODULES) >= 18
  for name, module in MODULES.items():
    method = module.make(task)
    adds_up = len(method.phases) > 1
    assert set(calls) == {'adds up' if adds_up else 'devices'}, name
    assert not (adds_up and method.is_mean_over_rows), name
    calls.clear()


def test_a_named_weighting_replaces_a_methods_own_weights():
  used, refused = [], set()

  def balance(weighting, **options):
    used.append(weighting)
    return mimo_jax.balance(weighting, **options)

  rule = mimo_jax.mimo(2.0, 0.5)
  task = recorded.make_task()._replace(balance=balance)
  named = task._replace(weighting=rule, weighting_name='mimo')
  for name, module in MODULES.items():
    try:
      module.make(named)
    except ValueError as error:
      assert 'cannot be combined with a weighting' in str(error), name
      refused.add(name)
      continue
    assert used.pop() is rule, name
    module.make(task)
    has_own = name in ('dgl', 'mcr', 'midas', 'mlb', 'remix')
    assert (used.pop() is task.weighting) != has_own, name
  weigh_themselves = {'mmpareto', 'g_blending'}
  apart = {'unimodal', 'ensemble', 'pretrained'}
  in_turn = {'aug', 'mla', 'reconboost'}
  assert refused == weigh_themselves | apart | in_turn
  methods.pretrained.make(named, frozen=False)  # everything learns


def test_methods_work_on_regression_or_say_that_they_need_classes(monkeypatch):
  monkeypatch.setattr(recorded, 'on_host', lambda tree: tree)
  monkeypatch.setattr(recorded, 'compiled', lambda function, **_: function)
  task = recorded.make_task(num_classes=1)
  refused = set()
  for name, module in MODULES.items():
    try:
      method = module.make(task)
    except ValueError as error:
      assert re.search(rf'^{name} .* classes', str(error))
      refused.add(name)
      continue

    def step(method=method):
      state, batch = recorded.begin(method)
      return state.params, recorded.update_of(method, state, batch)[0]

    params, update = jax.eval_shape(step)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, update)
  assert refused >= OF_CLASSES
  assert len(refused) < len(MODULES) - 8
