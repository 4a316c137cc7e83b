"""Times ways to compute the Gramian without all gradients at once.

On the networks of `steps`, with three convolutional encoders, by MGDA:

  the four losses of late fusion: their gradients, weights from the features (by
  any rule of the Gramian, --rules), and two passes, beside joint training;
  groups of rows as objectives, any number of them: gradients and two passes;
  single examples as objectives, in chunks.

Memory is the peak of the compiled step, as XLA's analysis reports it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments import benchmark
from experiments.benchmark import steps
from experiments.benchmark import subroutine
from experiments.benchmark import timing

Programs: TypeAlias = Mapping[str, subroutine.Compiled]

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


def program(
  params: Any,
  pulled: Callable[..., tuple[Any, Any]],
  rule: mimo_jax.Weighting | None = None,
  *given: Any,
) -> subroutine.Compiled:
  """A step on the losses and the pullback of `pulled(params, *given)`.

  It balances by `rule`, or MGDA. `given` are arguments of the program, not
  constants.
  """
  rule = mimo_jax.weightings.mgda() if rule is None else rule
  optimizer = optax.chain(mimo_jax.balance(rule), optax.sgd(0.01, momentum=0.9))

  def step(params: Any, state: Any, *given: Any) -> Any:
    losses, pullback = pulled(params, *given)
    updates, state = optimizer.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state, losses

  state = optimizer.init(params)
  compiled = jax.jit(step).lower(params, state, *given).compile()
  megabytes = subroutine.peak_megabytes(compiled)
  return subroutine.Compiled(lambda: compiled(params, state, *given), megabytes)


def of_late_fusion(batch_size: int, rules: Sequence[str]) -> Programs:
  """K = 4, block-sparse: by MGDA and, at the features, by other rules, too."""
  made = steps.network(batch_size)

  def losses_fn(params: Any, **options: Any) -> Any:
    return made.losses(params, made.batch, **options)

  def vjp(params: Any) -> Any:
    return jax.vjp(losses_fn, params)

  def two_passes(params: Any) -> Any:
    losses, pullback = vjp(params)
    return losses, mimo_jax.two_passes(pullback)

  def at_features(params: Any) -> Any:
    return mimo_jax.vjp_at_features(
      lambda params, cut: losses_fn(params, cut=cut), params
    )

  joint = mimo_jax.weightings.fused_only()
  return {
    'joint': program(made.params, vjp, joint),
    'gradients': program(made.params, vjp),
    '`vjp_at_features`': program(made.params, at_features),
    **{
      f'the same, {name}': program(
        made.params, at_features, getattr(mimo_jax.weightings, name)()
      )
      for name in rules
    },
    '`two_passes`': program(made.params, two_passes),
  }


def of_groups(batch_size: int, objectives: int) -> Programs:
  """The fused losses of some groups of the rows, and of a single group."""
  made = steps.network(batch_size)

  def vjp(params: Any, number: int = objectives) -> Any:
    def losses_fn(params: Any) -> jax.Array:
      logits = made.logits(params, made.batch)['fused']
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, made.batch['label']
      )
      return jnp.mean(losses.reshape(number, -1), axis=1)

    return jax.vjp(losses_fn, params)

  def two_passes(number: int) -> Callable[[Any], Any]:
    def pulled(params: Any) -> Any:
      losses, pullback = vjp(params, number)
      return losses, mimo_jax.two_passes(pullback)

    return pulled

  joint = mimo_jax.weightings.mean()
  return {
    'joint': program(made.params, vjp, joint),
    'gradients': program(made.params, vjp),
    '`two_passes`': program(made.params, two_passes(objectives)),
    '`two_passes`, K = 1': program(made.params, two_passes(1)),
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

  joint = mimo_jax.weightings.mean()
  return {
    'joint': program(made.params, pulled(examples), joint),
    'one chunk': program(made.params, pulled(examples)),
    f'chunks of {chunk}': program(made.params, pulled(chunk)),
  }


def table(programs: Programs, repeats: int) -> str:
  """Milliseconds and megabytes, beside joint training, in Markdown."""
  runs = {name: each.step for name, each in programs.items()}
  megabytes = {name: each.megabytes for name, each in programs.items()}
  taken = timing.interleaved(runs, repeats)
  return subroutine.beside_the_first('step', taken, megabytes)


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
    print(f'\n{title}:\n\n{table(made, repeats)}', flush=True)
