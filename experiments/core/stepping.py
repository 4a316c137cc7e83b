"""How runs take steps: together or one by one, whichever is faster.

Either the host starts each step, or a loop (`lax.scan`) inside the program
takes several. A loop saves the start of each step, which is expensive on
accelerators. On CPUs steps from the host are faster, by a sixth on Handwritten
and three times on the CREMA-D sample, since XLA's operations, above all
convolutions, are slow inside loops there. Large batches are not gathered for a
loop, either.

All runs take a step at once, under `vmap`, except for runs with convolutions on
a CPU, which take it one by one: there, convolutions with different kernels take
longer under `vmap` than in turn (`experiments.benchmark together`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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
  apart: bool | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[[], float]]:
  """Makes `feed`, `advance` and `megabytes` of a `program.Program`.

  Args:
    of_run: a step of one run.
    join: batches of each seed at one step -> batch of all runs.
    layout: of the runs.
    donate: whether a state donates its memory to the next one.
    apart: whether runs step one by one, on one device; None: if that is faster.

  Returns:
    The three functions.
  """
  runs = _Runs(of_run, layout, (0,) if donate else ())
  where = layout.sharding(SEEDS) if layout.mesh.size > 1 else None
  # Number of batches -> the way to step over them; 0: for any number.
  ways: dict[int, _Way] = {}

  def feed(steps: Iterable[Sequence[Any]]) -> Any:
    # Blocks, or the first program's time would include the transfer.
    return jax.block_until_ready(
      [jax.device_put(join(batches), where) for batches in steps]
    )

  def way_of(state: Any, batches: Sequence[Any]) -> _Way:
    if (known := ways.get(0) or ways.get(len(batches))) is not None:
      return known
    if _may_loop(batches):
      ways[len(batches)] = _in_a_loop(runs, state, batches)
      return ways[len(batches)]
    traced = runs.traced(state, batches[0])
    if _are_faster_apart(runs, traced) if apart is None else apart:
      ways[0] = _one_by_one(runs, state, batches)
    else:
      ways[0] = _at_once(runs, traced)
    return ways[0]

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    return way_of(state, batches).advance(state, batches)

  def megabytes() -> float:
    return program.peak_megabytes(way.compiled for way in ways.values())

  return feed, advance, megabytes


class _Runs(NamedTuple):
  """The step of one run, and the layout of all runs."""

  step: Step  # of one run
  layout: layout_lib.Layout
  donated: tuple[int, ...]  # numbers of donated arguments

  def traced(self, state: Any, batch: Any) -> Any:
    """A step of all runs, traced."""
    step = self.layout.over_runs(self.step, RUNS, SEEDS)
    return jax.jit(step, donate_argnums=self.donated).trace(state, batch)


class _Way(NamedTuple):
  """A way to take steps."""

  advance: Step  # (state, batches) -> state, metrics [steps, runs], seconds
  compiled: Any


def _at_once(runs: _Runs, traced: Any) -> _Way:
  """Calls a program for each step, which takes it for all runs."""
  compiled = traced.lower().compile()

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    state, metrics, seconds = program.one_by_one(compiled, state, batches)
    return state, _of_runs(metrics, runs.layout), seconds

  return _Way(advance, compiled)


def _in_a_loop(runs: _Runs, state: Any, batches: Sequence[Any]) -> _Way:
  """Calls one program, which takes all steps of all runs in a loop."""
  step = runs.layout.over_runs(runs.step, RUNS, SEEDS)
  loop = jax.jit(
    lambda state, *batches: lax.scan(
      step, state, jax.tree.map(lambda *leaf: jnp.stack(leaf), *batches)
    ),
    donate_argnums=runs.donated,
  )
  compiled = loop.lower(state, *batches).compile()

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    began = time.perf_counter()
    state, metrics = jax.block_until_ready(compiled(state, *batches))
    seconds = time.perf_counter() - began
    return state, _of_runs(jax.device_get(metrics), runs.layout), seconds

  return _Way(advance, compiled)


def _one_by_one(runs: _Runs, state: Any, batches: Sequence[Any]) -> _Way:
  """Calls a program for each step of each run."""
  layout = runs.layout
  alone = jax.jit(runs.step, donate_argnums=runs.donated)
  first = jax.eval_shape(layout.first, state)
  batch = jax.eval_shape(program.of_seed, batches[0], 0)
  compiled = alone.lower(first, batch).compile()

  def step(states: Sequence[Any], batch: Any) -> tuple[list[Any], list[Any]]:
    of_seeds = [program.of_seed(batch, i) for i in range(layout.num_seeds)]
    pairs = [
      compiled(state, of_seeds[i % layout.num_seeds])
      for i, state in enumerate(states)
    ]
    return [state for state, _ in pairs], [metrics for _, metrics in pairs]

  def advance(state: Any, batches: Sequence[Any]) -> Any:
    apart = [*layout.one_by_one(state)]
    states, metrics, seconds = program.one_by_one(step, apart, batches)
    # `metrics` lists those of each run, [steps].
    of_runs = jax.tree.map(lambda *leaf: np.stack(leaf, 1), *metrics)
    return layout.placed(states), of_runs, seconds

  return _Way(advance, compiled)


def _may_loop(batches: Sequence[Any]) -> bool:
  """Whether a loop inside the program takes the steps."""
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(list(batches)))
  return jax.default_backend() != 'cpu' and num_bytes <= _MOST_BYTES


def _are_faster_apart(runs: _Runs, traced: Any) -> bool:
  """Whether runs step one by one: with convolutions, on one CPU device."""
  if jax.default_backend() != 'cpu' or runs.layout.mesh.size > 1:
    return False
  return 'conv_general_dilated[' in str(traced.jaxpr)


def _of_runs(metrics: Any, layout: layout_lib.Layout) -> Any:
  """Metrics as [steps, runs]."""
  return jax.tree.map(
    lambda leaf: np.stack(list(map(layout.flat, leaf))), metrics
  )
