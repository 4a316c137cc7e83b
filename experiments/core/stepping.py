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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.core import compilation
from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core.layout import RUNS
from experiments.core.layout import SEEDS

# Batches of more bytes are not gathered for a loop inside a program.
_MOST_BYTES = 1 << 28


class Stepper:
  """Takes steps of all runs: `feed`, `advance`, `megabytes` of a `Program`."""

  def __init__(
    self,
    of_run: Callable[..., Any],
    join: Callable[[Sequence[Any]], Any],
    layout: layout_lib.Layout,
    donate: bool,
    apart: bool | None = None,
  ) -> None:
    """Compiles nothing yet.

    Args:
      of_run: a step of one run: (state, batch) -> state, metrics.
      join: batches of each seed at one step -> batch of all runs.
      layout: of the runs.
      donate: whether a state donates its memory to the next one.
      apart: whether runs step one by one, on one device; None: if that is
        faster.
    """
    self._of_run, self._join = of_run, join
    self._of_all = layout.over_runs(of_run, RUNS, SEEDS)
    self._layout, self._apart = layout, apart
    self._donated = (0,) if donate else ()
    # Number of batches -> how to step over them; 0: any number.
    self._ways: dict[int, Callable[..., Any]] = {}
    self._compiled: list[Any] = []

  def feed(self, steps: Iterable[Sequence[Any]]) -> Any:
    """Moves batches to the devices."""
    layout = self._layout
    where = layout.sharding(SEEDS) if layout.mesh.size > 1 else None
    # Blocks, or the first program's time would include the transfer.
    return jax.block_until_ready(
      [jax.device_put(self._join(batches), where) for batches in steps]
    )

  def advance(self, state: Any, batches: Sequence[Any]) -> Any:
    """Steps over batches; returns state, metrics [steps, runs] and seconds."""
    way = self._ways.get(0) or self._ways.get(len(batches))
    if way is None:
      number = len(batches) if _may_loop(batches) else 0
      make = self._in_a_loop if number else self._from_the_host
      way = self._ways[number] = make(state, batches)
    return way(state, batches)

  def megabytes(self) -> float:
    """The most memory that a step needs; NaN before the first one."""
    found = map(compilation.peak_megabytes, self._compiled)
    return max(found, default=float('nan'))

  def _trace(self, function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function, donate_argnums=self._donated).trace(*arguments)

  def _compile(self, traced: Any) -> Any:
    self._compiled.append(traced.lower().compile())
    return self._compiled[-1]

  def _in_a_loop(
    self, state: Any, batches: Sequence[Any]
  ) -> Callable[..., Any]:
    """Calls one program, which takes all steps of all runs in a loop."""

    def loop(state: Any, *batches: Any) -> Any:
      stacked = jax.tree.map(lambda *leaf: jnp.stack(leaf), *batches)
      return lax.scan(self._of_all, state, stacked)

    compiled = self._compile(self._trace(loop, state, *batches))

    def advance(state: Any, batches: Sequence[Any]) -> Any:
      began = time.perf_counter()
      state, metrics = jax.block_until_ready(compiled(state, *batches))
      seconds = time.perf_counter() - began
      return state, self._of_runs(jax.device_get(metrics)), seconds

    return advance

  def _from_the_host(
    self, state: Any, batches: Sequence[Any]
  ) -> Callable[..., Any]:
    """Calls a program for each step, of all runs at once or of each run."""
    traced = self._trace(self._of_all, state, batches[0])
    apart = self._apart
    if apart is None:
      is_on_cpu = jax.default_backend() == 'cpu' and self._layout.mesh.size == 1
      apart = is_on_cpu and 'conv_general_dilated[' in str(traced.jaxpr)
    if apart:
      return self._one_by_one(state, batches)
    compiled = self._compile(traced)

    def advance(state: Any, batches: Sequence[Any]) -> Any:
      state, metrics, seconds = program.one_by_one(compiled, state, batches)
      return state, self._of_runs(metrics), seconds

    return advance

  def _one_by_one(
    self, state: Any, batches: Sequence[Any]
  ) -> Callable[..., Any]:
    """Calls a program for each step of each run."""
    layout = self._layout
    first = jax.eval_shape(layout.first, state)
    batch = jax.eval_shape(program.of_seed, batches[0], 0)
    compiled = self._compile(self._trace(self._of_run, first, batch))

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

    return advance

  def _of_runs(self, metrics: Any) -> Any:
    """Metrics as [steps, runs]."""
    return jax.tree.map(
      lambda leaf: np.stack(list(map(self._layout.flat, leaf))), metrics
    )


def _may_loop(batches: Sequence[Any]) -> bool:
  """Whether a loop inside the program takes the steps."""
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(list(batches)))
  return jax.default_backend() != 'cpu' and num_bytes <= _MOST_BYTES
