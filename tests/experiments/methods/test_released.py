"""Options for released code that differs from its paper.

Other options are tested in the methods' own files.
"""

import inspect
import pathlib
import re
import typing

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import methods
from experiments.methods import common
from experiments.methods import lfm
from experiments.methods import opm
from experiments.methods import smv
from tests import checks
from tests.experiments.methods import recorded

README = pathlib.Path(methods.__file__).parent / 'README.md'
NAMES = ('audio', 'visual')
TASK = recorded.make_task()


def test_the_errata_name_exactly_the_existing_options():
  lines = README.read_text().split('## Errata')[1].split('\n## ')[0]
  rows = [line for line in lines.splitlines() if line.startswith('| ')][1:]
  for row in rows:
    whose = row.split('|')[2]
    assert re.search(r'\(https://github.com/\S+/[0-9a-f]{7}\S*\)', whose), row
  named = set(re.findall(r"`(\w+)`: `released='(\w+)'`", lines))
  there = set()
  for name, module in vars(methods).items():
    if hasattr(module, 'SPACE'):
      parameters = inspect.signature(module.make).parameters
      if 'released' in parameters:
        assert parameters['released'].default is None
        annotation = parameters['released'].annotation
        (literal,) = set(typing.get_args(annotation)) - {type(None)}
        there |= {(name, value) for value in typing.get_args(literal)}
  assert named == there
  assert len(there) >= 11


class Convolution(flax.linen.Module):
  """Features of a picture, by a kernel of four axes and a bias."""

  @flax.linen.compact
  def __call__(self, inputs):
    pictures = inputs.reshape(-1, 5, 1, 1)
    return flax.linen.Conv(1, (3, 1))(pictures).reshape(-1, 5)


def test_g2d_stops_only_the_gradients_of_convolutions():
  task = recorded.make_task(encoder=Convolution)
  task = task._replace(optimizer=lambda *_: optax.trace(0.9))
  method, state, batch = recorded.begun(
    methods.g2d, task, distil=False, released='authors'
  )
  confidence = jnp.array([0.3, 0.8])  # visual should be held still
  state = state._replace(memory=state.memory._replace(confidence=confidence))
  update, _ = recorded.update_of(method, state, batch)
  for name, stands in (('audio', False), ('visual', True)):
    of_encoder = update[f'encoders_{name}']['Conv_0']
    assert np.any(of_encoder['kernel']) != stands
    assert np.any(of_encoder['bias'])
  # Earlier momentum still moves them.
  memory = jax.tree.map(jnp.ones_like, update)
  moved, _ = method.optimizer.update(
    update, method.optimizer.init(state.params)._replace(trace=memory)
  )
  kernel = moved['encoders_visual']['Conv_0']['kernel']
  np.testing.assert_allclose(kernel, np.full(kernel.shape, 0.9), rtol=1e-6)


def test_g_blending_adds_up_the_means_of_batches():
  found = {}
  for released in (None, 'balance_benchmark'):
    method, state, batch = recorded.begun(
      methods.g_blending, TASK, released=released
    )
    batch['mask'] = jnp.ones(6, bool)
    held = batch | {'mask': jnp.arange(6) < 2}
    scratch = recorded.compiled(method.rehearsal.begin)(state, batch)
    measure = recorded.compiled(method.rehearsal.passes[1].step)
    for one in (batch, held):
      scratch = measure(state, scratch, one)
    found[released] = scratch.losses[1].value
  rows = -np.log(recorded.own(recorded.softmax(recorded.logits_of())))
  mean = (rows.sum() + rows[:2].sum()) / 8
  np.testing.assert_allclose(found[None][0], mean, rtol=1e-5)
  added = rows.mean() + rows[:2].mean()
  np.testing.assert_allclose(found['balance_benchmark'][0], added, rtol=1e-5)


def test_inforeg_has_sums_of_scores():
  means = {}
  for released in (None, 'authors'):
    method = methods.inforeg.make(TASK, released=released)
    # A device would add up only its own rows of a batch.
    assert method.is_mean_over_rows == (released is None)
    state, batch = recorded.begin(method)
    _, seen = recorded.losses_of(method, state, batch)
    means[released] = [seen.observed['scores'][name] for name in NAMES]
  np.testing.assert_allclose(means[None], recorded.SCORES, rtol=1e-5)
  authors = np.array(means['authors'])
  np.testing.assert_allclose(authors, 6 * np.array(means[None]), rtol=1e-6)


def test_lfm_has_a_polynomial_schedule():
  method, state, _ = recorded.begun(
    lfm, TASK, alignment='js', released='authors'
  )
  # 10 steps an epoch; by the documented polynomial.
  for epoch, own in ((0, 0.2046), (100, 0.54), (150, 0.82)):
    factors = common.factors(method, recorded.at_step(state, 10 * epoch + 9))
    np.testing.assert_allclose(factors['fused'], own, atol=0.01)
    np.testing.assert_allclose(factors['alignment'], 1 - factors['fused'])
  message = "lfm was given alignment='contrastive'; expected 'js'"
  with pytest.raises(ValueError, match=message):
    lfm.make(TASK, released='authors')


def test_mmpareto_is_a_sum_with_a_factor_for_encoders():
  method, state, batch = recorded.begun(
    methods.mmpareto, TASK, gamma=1.5, released='balance_benchmark'
  )
  _, _, gradients = recorded.learn(method, state, batch)
  found, _ = recorded.update_of(method, state, batch)
  for part in found:
    factor = 3 if part.startswith('encoders') else 1
    plain = recorded.summed(gradients, **dict.fromkeys(gradients, factor))
    checks.assert_close(found[part], plain[part], rtol=1e-5)


def test_opm_compares_with_the_sum_of_the_others():
  rates = recorded.compiled(opm.rates, static_argnames='against_sum')
  three = np.array([0.5, 0.4, 0.3])
  assert np.any(rates(three, 0.4, 0.7))
  assert not np.any(rates(three, 0.4, 0.7, against_sum=True))
  ahead = rates(np.array([0.6, 0.1, 0.2]), 0.4, 0.7, against_sum=True)
  expected = [0.4 * (1 + 0.7 * np.tanh(1.0)), 0, 0]
  np.testing.assert_allclose(ahead, expected, rtol=1e-5)
  # With uninformative features, none is ahead of all others together.
  features = {name: 0.1 * value for name, value in recorded.THREE.items()}
  task = recorded.make_task(features)
  found = []
  for released in (None, 'balance_benchmark'):
    method = opm.make(
      task, probability=1.0, warm_up_epochs=0.0, released=released
    )
    state, batch = recorded.begin(method, features)
    losses, _ = recorded.losses_of(method, state, batch)
    found.append(losses['fused'])
  whole = recorded.cross_entropy(
    recorded.logits_of(features, recorded.THREE_KERNEL)
  )
  np.testing.assert_allclose(found[1], whole, rtol=1e-5)
  assert abs(found[0] - whole) > 1e-3


def test_smv_values_a_correct_answer_of_any_coalition_alike():
  right, wrong = jnp.array([[9.0, 0.0]]), jnp.array([[0.0, 9.0]])
  logits = {
    frozenset(some): value
    for some, value in (('a', right), ('v', wrong), ('av', right))
  }
  label = jnp.array([0])
  assert smv.values(logits, label).tolist() == [[1.5], [0.5]]
  assert smv.values(logits, label, alike=True).tolist() == [[1.0], [0.0]]
  found = []
  for released in (None, 'balance_benchmark'):
    method, state, batch = recorded.begun(
      smv, TASK, warm_up_epochs=0.0, released=released
    )
    _, seen = recorded.losses_of(method, state, batch)
    found.append(np.sum(seen.memory.running))
  assert found[0] == 2 * found[1] > 0  # half of the value of all
