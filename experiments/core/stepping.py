"""How many runs take steps together: what is fast where they are.

Steps are taken from the host, or by a loop (`lax.scan`) inside the program,
which saves what it takes to start one: dear on accelerators. On CPUs a step
from the host is faster, by a sixth on Handwritten and three times on the
CREMA-D sample, since XLA's operations, convolutions most of all, are slow
inside of loops there. Large batches are not gathered for a loop, either.

All runs take a step at once, under `vmap`. But on a CPU, where convolutions of
different kernels side by side take three times as long as one after the other,
runs with convolutions step one by one.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core.layout import RUNS
from experiments.core.layout import SEEDS

# Batches of more bytes are not gathered for a loop inside a program.
_MOST_BYTES = 1 << 28

Step = Callable[..., Any]  # (state, batch) -> state, metrics


def make(
  of_run: Step,
  join: Callable[[Sequence[Any]], Any],
  layout: layout_lib.Layout,
  donate: bool,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[], float]]:
  """Makes `feed`, `advance` and `megabytes` of a `program.Program`.

  Args:
    of_run: a step of one run.
    join: batches of each seed at one step -> batch of all runs.
    layout: of the runs.
    donate: whether a state gives its memory to the next one.
  """
  donated = (0,) if donate else ()
  train_step = layout.over_runs(of_run, RUNS, SEEDS)
  where = layout.sharding(SEEDS) if layout.mesh.size > 1 else None
  step = jax.jit(train_step, donate_argnums=donated)
  alone = jax.jit(of_run, donate_argnums=donated)
  loop = jax.jit(
    lambda state, *batches: lax.scan(
      train_step, state, jax.tree.map(lambda *leaf: jnp.stack(leaf), *batches)
    ),
    donate_argnums=donated,
  )
  apart, together = jax.jit(layout.apart), jax.jit(layout.together)
  # Number of batches -> the loop over them; 0 -> a step of all runs, or of one.
  compiled: dict[int, Callable[..., Any]] = {}
  steps_apart = False

  def feed(steps: Iterable[Sequence[Any]]) -> Any:
    # Waited for, or the first program's time would hold the transfer.
    return jax.block_until_ready(
      [jax.device_put(join(batches), where) for batches in steps]
    )

  def compile_for(state: Any, batches: Sequence[Any]) -> None:
    nonlocal steps_apart
    if _may_loop(batches):
      compiled[len(batches)] = loop.lower(state, *batches).compile()
      return
    one = jax.eval_shape(layout.apart, state)[0]
    of_seed = jax.eval_shape(lambda b: _of_seed(b, 0), batches[0])
    steps_apart = _are_faster_apart(alone, one, of_seed, layout)
    lowered = (
      alone.lower(one, of_seed)
      if steps_apart
      else step.lower(state, batches[0])
    )
    compiled[0] = lowered.compile()

  def one_after_the_other(states: list[Any], batch: Any) -> tuple[Any, Any]:
    of_seeds = [_of_seed(batch, i) for i in range(layout.num_seeds)]
    metrics = []
    for i, state in enumerate(states):
      states[i], found = compiled[0](state, of_seeds[i % layout.num_seeds])
      metrics.append(found)
    return states, metrics

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    number = len(batches)
    if 0 not in compiled and number not in compiled:
      compile_for(state, batches)
    if steps_apart:
      states, metrics, seconds = program.one_by_one(
        one_after_the_other, apart(state), batches
      )
      of_runs = jax.tree.map(lambda *leaf: np.stack(leaf, 1), *metrics)
      return together(states), of_runs, seconds
    if 0 in compiled:
      state, metrics, seconds = program.one_by_one(compiled[0], state, batches)
      return state, _of_runs(metrics, layout), seconds
    began = time.perf_counter()
    found = jax.block_until_ready(compiled[number](state, *batches))
    seconds = time.perf_counter() - began
    state, metrics = found
    return state, _of_runs(jax.device_get(metrics), layout), seconds

  return feed, advance, lambda: program.peak_megabytes(compiled.values())


def _may_loop(batches: Sequence[Any]) -> bool:
  """Whether steps go into a loop of a program."""
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(list(batches)))
  return jax.default_backend() != 'cpu' and num_bytes <= _MOST_BYTES


def _are_faster_apart(
  step: Any, state: Any, batch: Any, layout: layout_lib.Layout
) -> bool:
  """Whether runs step one by one: of convolutions on one CPU device."""
  if jax.default_backend() != 'cpu' or layout.mesh.size > 1:
    return False
  return 'conv_general_dilated[' in str(step.trace(state, batch).jaxpr)


def _of_seed(batch: Any, seed: int) -> Any:
  """The batch of one seed."""
  return jax.tree.map(lambda leaf: leaf[seed], batch)


def _of_runs(metrics: Any, layout: layout_lib.Layout) -> Any:
  """Metrics [steps, runs]."""
  return jax.tree.map(
    lambda leaf: np.stack(list(map(layout.flat, leaf))), metrics
  )
