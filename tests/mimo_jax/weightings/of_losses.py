"""What tests of rules that see only losses share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from tests import reference

REFERENCE = reference.read('loss_weightings')
LOSSES = np.array([0.35, 1.2, 0.7, 2.9, 0.1])
SAMPLES = {
  'one': np.array([0.4]),
  'five': LOSSES,
  'uneven': np.array([3e-4, 40.0, 1.0, 0.2, 7.0]),
  'many': 0.1 + np.sin(1.0 + np.arange(64)) ** 2,
}


def observe(losses, after=None):
  # Rounded to the default precision, without a warning.
  dtype = jnp.result_type(float)
  after = None if after is None else jnp.asarray(after, dtype)
  return mimo_jax.Observation(jnp.asarray(losses, dtype), losses_after=after)


def weigh(rule, losses, after=None):
  """Returns the weights of the first step, as float64."""
  state = rule.init(len(losses))
  weights, _ = jax.jit(rule.update)(observe(losses, after), state)
  return np.asarray(weights, np.float64)


def run(rule, sequence, after=None):
  """Returns weights [T, K] for a sequence of losses [T, K], and the state."""
  sequence = np.asarray(sequence)
  after = sequence if after is None else np.asarray(after)

  def step(state, observation):
    weights, state = rule.update(observation, state)
    return state, weights

  state, weights = jax.jit(functools.partial(jax.lax.scan, step))(
    rule.init(sequence.shape[1]), observe(sequence, after)
  )
  return np.asarray(weights, np.float64), state


def falling(size=3, steps=12, seed=0):
  """Makes noisy losses that fall at different rates, [T, K]."""
  random = np.random.RandomState(seed)
  rates = np.linspace(0.7, 0.98, size)
  noise = np.exp(0.1 * random.normal(size=[steps, size]))
  return np.linspace(3, 0.5, size) * rates ** np.arange(steps)[:, None] * noise


# Every scalarization as numpy writes it, of complex losses too: f(L + ih)/h
# has the derivative as its imaginary part, without a difference that rounds.


def even(losses):
  return np.full(len(losses), 1 / len(losses))


def uneven(losses):
  return np.linspace(0.3, 1.1, len(losses)) ** 2


def length(vector):
  return np.sqrt(np.sum(vector**2))


def geometric_mean(losses):
  return np.exp(np.mean(np.log(losses)))


def smooth_tchebycheff(losses, temperature, preference, ideal):
  exponents = preference * (losses - ideal) / temperature
  largest = exponents[np.argmax(exponents.real)]
  return temperature * (largest + np.log(np.sum(np.exp(exponents - largest))))


def cosine_penalised(losses, penalty, preference):
  cosine = preference @ losses / length(preference) / length(losses)
  return preference @ losses - penalty * cosine


def boundary_intersection(losses, penalty, preference, ideal):
  direction = preference / length(preference)
  gap = losses - ideal
  along = gap @ direction
  return along + penalty * length(gap - along * direction)


def uncertainty(losses, log_variances):
  return np.sum(np.exp(-log_variances) * losses + log_variances) / 2


def impartial(losses, log_scales):
  return np.sum(np.exp(log_scales) * losses - log_scales)


def log_sum(losses, shares, minima):
  """FAMO's, with its constant."""
  constant = 1 / np.sum(shares / (losses.real - minima))
  return constant * np.sum(shares * np.log(losses - minima))


def ideal_of(losses):
  return np.linspace(-0.2, 0.05, len(losses))
