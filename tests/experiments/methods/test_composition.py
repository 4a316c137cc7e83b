"""Slots compose: the model, the weights of losses, changes of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from experiments import methods
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import spaces
from experiments.core import training
from experiments.core import weighing
from experiments.methods import common
from mimo_jax import nn
from tests import checks
from tests import running
from tests.experiments.methods import hand
from tests.experiments.methods import recorded
from tests.running import smoke

PENALTY, TEMPERATURE = 2.5, 0.4


def mimo_task(features=recorded.FEATURES, encoder=recorded.Scaled, **model):
  task = recorded.make_task(features, encoder, detach_heads=False, **model)
  rule = mimo_jax.mimo(PENALTY, TEMPERATURE)
  return task._replace(weighting=rule, weighting_name='mimo')


def cosines(features, kernel):
  """5 cos of rows and columns; of a row of zeros they are 0."""
  lengths = np.linalg.norm(features, axis=1, keepdims=True)
  lengths = np.where(lengths == 0, 1, lengths)
  return 5 * features / lengths @ (kernel / np.linalg.norm(kernel, axis=0))


def penalised(params):
  """MIMO's objective with a cosine fusion, in NumPy: F0 + λ μ log mean exp."""
  fused, own = 0.0, []
  for name, inputs in recorded.THREE.items():
    layer = params[f'encoders_{name}']['Dense_0']
    features = np.maximum(recorded.dense(layer, inputs), 0)
    fused = fused + cosines(features, params['fusion'][name]['kernel'])
    logits = recorded.dense(params[f'heads_{name}'], features)
    own.append(recorded.cross_entropy(logits))
  smooth = np.log(np.mean(np.exp(np.array(own) / TEMPERATURE)))
  return recorded.cross_entropy(fused) + PENALTY * TEMPERATURE * smooth


@pytest.mark.quick
def test_mimo_on_cosines_descends_its_objective():
  """Checked by finite differences, without JAX."""
  task = mimo_task(recorded.THREE, lambda: nn.MLP((4,)))
  method, state, batch = recorded.begun(methods.mmcosine, task, scale=5.0)
  update, _ = recorded.update_of(method, state, batch)
  params, update = jax.tree.map(np.float64, (state.params, update))
  generator = np.random.default_rng(0)
  for _ in range(3):
    way = jax.tree.map(lambda p: generator.standard_normal(p.shape), params)

    def along(by, way=way):
      return penalised(jax.tree.map(lambda p, d: p + by * d, params, way))

    found = checks.flat(update) @ checks.flat(way)
    np.testing.assert_allclose(recorded.slope(along, 1e-6), found, rtol=1e-4)


def test_every_own_loss_of_a_method_has_weight_one():
  for name, own in (
    ('agm', ()),
    ('g2d', ('distilled_features', 'distilled_outputs')),
    ('mcr', ('competition', 'contrast')),
    ('midas', ('misaligned',)),
    ('pmr', ('prototypes',)),
    ('umt', ('distillation',)),
  ):
    method = getattr(methods, name).make(recorded.make_task())
    assert method.primary == dict.fromkeys(('fused', *own), 1.0), name


@pytest.mark.parametrize('name', ['cml', 'ogm'])
def test_a_methods_losses_belong_to_the_objectives_that_are_weighted(name):
  method = getattr(methods, name).make(mimo_task())
  state, batch = recorded.begin(method)
  losses, _, gradients = recorded.learn(method, state, batch)
  update, _ = recorded.update_of(method, state, batch)
  of_objectives = common.joined(method.primary, losses)
  assert set(of_objectives) == {'fused', 'audio', 'visual'}
  modalities = np.array([of_objectives[k] for k in ('audio', 'visual')])
  exponents = np.exp(modalities / TEMPERATURE)
  shares = PENALTY * exponents / exponents.sum()
  weights = method.primary | {'audio': shares[0], 'visual': shares[1]}
  expected = recorded.summed(gradients, **weights)
  if name == 'ogm':  # which then changes the encoders
    heads = [tree['heads_audio'] for tree in (update, expected)]
    checks.assert_close(*heads, rtol=1e-4)
    slowed = recorded.scales(update) / recorded.scales(expected)
    assert slowed.min() < 0.95
    assert np.isclose(slowed.max(), 1)
  else:
    checks.assert_close(update, expected, rtol=1e-4, atol=1e-6)
    assert len(method.primary) == 3


def test_joint_training_is_the_sum_with_stopped_gradients():
  config = handwritten.get_config('two,smoke')
  batch = running.batches_of(config, 0, 1)[0]
  updates = []
  for weighting, detach in (
    ({'name': 'joint'}, False),
    ({'name': 'sum'}, True),
  ):
    with config.unlocked():
      config.weighting = weighting
    config.model.detach_heads = detach
    experiment = training.make(config, 15)
    key, variables = jax.random.key(0), recorded.drawn(experiment.fresh, batch)
    state = recorded.compiled(experiment.begin)(variables, key, batch)
    updates.append(recorded.compiled(experiment.train_step)(state, batch))
  checks.assert_equal(updates[0][0].params, updates[1][0].params)
  checks.assert_equal(updates[0][1], updates[1][1])


def test_each_seed_of_a_composition_has_the_weights_of_its_own_losses():
  run = hand.train('cml+mimo_3')
  losses, weights = run.metrics['losses'], run.metrics['weights']
  own = np.stack([losses[name] for name in hand.NAMES])
  exponents = np.exp((own - own.max(0)) / 0.3)
  shares = 3 * exponents / exponents.sum(0)
  for name, share in zip(hand.NAMES, shares, strict=True):
    np.testing.assert_allclose(weights[name], share, rtol=1e-4)
  np.testing.assert_allclose(weights['fused'], 1 / 3, rtol=1e-6)
  assert np.all(weights['rise'] == 1)
  assert np.all(weights['partial'] == 1)


def test_a_scheduled_penalty_shrinks_to_zero_over_training():
  config = smoke(steps=4)
  changed = configuration.with_recipe(config, 'mimo_shrinking')
  rule, _ = weighing.make(changed, training.make_model(changed.model))
  state, penalties = rule.init(3), []
  for _ in range(6):
    observation = mimo_jax.Observation(jnp.array([0.2, 0.9, 0.5]))
    weights, state = rule.update(observation, state)
    penalties.append(float(jnp.sum(weights[1:])))
  expected = [3.0, 2.25, 1.5, 0.75, 0.0, 0.0]
  np.testing.assert_allclose(penalties, expected, rtol=1e-6)


def test_total_is_the_sum_of_the_weights():
  config = smoke()
  config.weighting = {'name': 'mimo', 'penalty': 3.0, 'total': 2.0}
  rule, _ = weighing.make(config, training.make_model(config.model))
  observation = mimo_jax.Observation(jnp.array([0.2, 0.7, 0.7]))
  weights, _ = rule.update(observation, rule.init(3))
  np.testing.assert_allclose(weights, [0.5, 0.75, 0.75], rtol=1e-6)


def test_words_and_recipes_compose_by_slot():
  config = handwritten.get_config('mimo_3,mmcosine,two,smoke')
  assert config.method.to_dict() == {'name': 'mmcosine', 'scale': 15.0}
  strong = {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3}
  assert config.weighting.to_dict() == strong
  # Naming one leaves the other slot plain, whatever the configuration has.
  assert handwritten.get_config('mmcosine').weighting.name == 'joint'
  found = configuration.with_recipe(config, 'mgda')
  assert found.method.name == 'weighted'
  for recipe in ('mmcosine+mimo', 'mimo+mmcosine'):
    found = configuration.with_recipe(config, recipe)
    assert (found.method.name, found.weighting.name) == ('mmcosine', 'mimo')
    assert set(spaces.of_recipe(config, recipe)) == {
      'method.scale', 'weighting.penalty', 'weighting.temperature',
      'optimizer.learning_rate', 'weight_decay',
    }  # fmt: skip


def test_impossible_combinations_are_refused_with_the_reason():
  for recipe, message in (
    ('mmpareto+mimo', 'mmpareto cannot be combined .*solves for weights'),
    ('g_blending+mgda', 'g_blending cannot be combined .*finds the weights'),
    ('aug+sum', 'aug cannot be combined .*nothing learns from a fused loss'),
    ('mla+sum', 'mla cannot be combined .*nothing learns from a fused loss'),
    ('reconboost+mimo', 'reconboost cannot be combined .*learn in turn'),
    ('unimodal+mimo', 'unimodal cannot be combined .*more than one'),
    ('ensemble+mimo', 'ensemble cannot be combined .*more than one'),
    ('pretrained_frozen+mgda', 'pretrained cannot .*the fused loss alone'),
    ('ogm+pmr', "'ogm.pmr' has two changes of method"),
    ('mimo+ogm+mgda', 'two changes of weighting'),
    ('ogm+mimmo', r"no recipe 'mimmo' \(of 'ogm\+mimmo'\)"),
    ('ogm+', r"no recipe '' \(of 'ogm\+'\)"),
    ('famo', r"'famo' needs \['losses_after'\] of other batches"),
    ('ogm+builtins:dict', 'has made {}; expected .* mimo_jax.Weighting'),
  ):
    with pytest.raises(ValueError, match=message):
      make(recipe)


def make(recipe):
  return training.make(configuration.with_recipe(smoke(), recipe), 15)


def test_a_method_of_another_package_is_named_by_its_function():
  config = configuration.with_recipe(smoke(), 'ogm')
  for name, is_found in (
    ('ogm', True),
    ('experiments.methods.ogm:make', True),
    ('experiments.methods:ogm', False),
  ):
    config.method.name = name
    if is_found:
      training.make(config, 15)
    else:
      with pytest.raises(ValueError, match='is no method'):
        training.make(config, 15)


def test_wrong_words_and_arguments_are_refused():
  for arg, message in (
    ('ogm,pmr', 'two method'),
    ('sum,mgda', 'two weighting'),
  ):
    with pytest.raises(ValueError, match=message):
      handwritten.get_config(arg)
  config = smoke()
  config.weighting.name = 'joint'
  message = r"'joint', which takes no arguments, .*\['penalty', 'temperature'\]"
  with pytest.raises(ValueError, match=message):
    training.make(config, 15)
