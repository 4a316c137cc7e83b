"""Times ways to compute the Gramian without all gradients at once.

On the networks of `steps`, with three convolutional encoders, by MGDA:

  the four losses of late fusion: their gradients, weights from the features (by
  any rule of the Gramian, --rules), and two passes, beside joint training;
  groups of rows as objectives, any number of them: gradients and two passes;
  single examples as objectives, in chunks.

Memory is the peak of the compiled step, as XLA's analysis reports it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments import benchmark
from experiments.benchmark import steps
from experiments.benchmark import timing

Programs: TypeAlias = Mapping[str, timing.Compiled]

MGDA = mimo_jax.weightings.mgda()
OPTIONS = {
  'repeats': benchmark.REPEATS,
  'batch_size': benchmark.BATCH_SIZE,
  'objectives': benchmark.Option(
    32, 'groups of rows, each of which is an objective'
  ),
  'examples': benchmark.Option(64, 'examples, each of which is an objective'),
  'rules': benchmark.Option(
    ['pcgrad', 'upgrad', 'nash_mtl'],
    'weightings of the Gramian, in addition to MGDA, at the features',
    choices=mimo_jax.weightings.__all__,
  ),
  'chunk': benchmark.Option(16, 'examples whose gradients are held at once'),
}


def of_late_fusion(batch_size: int, rules: Sequence[str]) -> Programs:
  """K = 4, block-sparse: by MGDA and, at the features, by other rules, too."""
  made = steps.network(batch_size)

  def losses_fn(params: Any, **options: Any) -> Any:
    return made.losses(params, made.batch, **options)

  def at_features(params: Any) -> Any:
    return mimo_jax.vjp_at_features(
      lambda params, cut: losses_fn(params, cut=cut), params
    )

  vjp = functools.partial(jax.vjp, losses_fn)
  joint = mimo_jax.weightings.fused_only()
  return {
    'joint': steps.balanced(made.params, vjp, joint),
    'gradients': steps.balanced(made.params, vjp, MGDA),
    '`vjp_at_features`': steps.balanced(made.params, at_features, MGDA),
    **{
      f'the same, {name}': steps.balanced(
        made.params, at_features, getattr(mimo_jax.weightings, name)()
      )
      for name in rules
    },
    '`two_passes`': steps.balanced(made.params, _two_passes(vjp), MGDA),
  }


def _two_passes(vjp: Callable[[Any], Any]) -> Callable[[Any], Any]:
  def pulled(params: Any) -> Any:
    losses, pullback = vjp(params)
    return losses, mimo_jax.two_passes(pullback)

  return pulled


def of_groups(batch_size: int, objectives: int) -> Programs:
  """The fused losses of some groups of the rows, and of a single group."""
  made = steps.network(batch_size)

  def vjp(number: int) -> Callable[[Any], Any]:
    def losses_fn(params: Any) -> jax.Array:
      logits = made.logits(params, made.batch)['fused']
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, made.batch['label']
      )
      return jnp.mean(losses.reshape(number, -1), axis=1)

    return functools.partial(jax.vjp, losses_fn)

  mean, many, one = mimo_jax.weightings.mean(), vjp(objectives), vjp(1)
  return {
    'joint': steps.balanced(made.params, many, mean),
    'gradients': steps.balanced(made.params, many, MGDA),
    '`two_passes`': steps.balanced(made.params, _two_passes(many), MGDA),
    '`two_passes`, K = 1': steps.balanced(made.params, _two_passes(one), MGDA),
  }


def of_examples(examples: int, chunk: int) -> Programs:
  """Each row an objective: all gradients at once, and chunks of them."""
  made = steps.network(examples)

  def loss_fn(params: Any, example: Any) -> jax.Array:
    one = jax.tree.map(lambda leaf: leaf[None], example)
    return made.losses(params, one)['fused']

  def pulled(size: int) -> Callable[[Any], Any]:
    return lambda params: mimo_jax.vjp_of_examples(
      loss_fn, params, made.batch, batch_size=size
    )

  mean, at_once = mimo_jax.weightings.mean(), pulled(examples)
  return {
    'joint': steps.balanced(made.params, at_once, mean),
    'one chunk': steps.balanced(made.params, at_once, MGDA),
    f'chunks of {chunk}': steps.balanced(made.params, pulled(chunk), MGDA),
  }


def run(
  repeats: int,
  batch_size: int,
  objectives: int,
  examples: int,
  rules: Sequence[str],
  chunk: int,
) -> None:
  """Prints the tables."""
  if batch_size % objectives:
    raise benchmark.UsageError(
      f'--batch_size={batch_size} rows cannot be cut into'
      f' --objectives={objectives} equal groups.'
    )
  print(timing.machine())
  for title, made in (
    (
      f'Late fusion, batch {batch_size}, K = {len(steps.OBJECTIVES)}',
      of_late_fusion(batch_size, rules),
    ),
    (f'Groups of rows, K = {objectives}', of_groups(batch_size, objectives)),
    (f'Examples, B = {examples}', of_examples(examples, chunk)),
  ):
    table = timing.beside_the_first('step', made, repeats)
    print(f'\n{title}:\n\n{table}', flush=True)
