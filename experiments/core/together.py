"""Programs of many runs: all seeds of one variant or of several.

Each function of a run is under `vmap`, and the runs are divided among the
devices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core import rehearsals
from experiments.core import stepping
from experiments.core import training
from experiments.core.layout import RUNS
from experiments.core.layout import SAME
from experiments.core.layout import SEEDS
from experiments.core.layout import VARIANTS
from experiments.evaluation import evaluate

Values = Mapping[str, Any]  # dotted key of the configuration -> value


class _Run(NamedTuple):
  """One run of several."""

  values: dict[str, jax.Array]  # key -> [], of the traced ones
  state: training.TrainState


def together(
  config: config_dict.ConfigDict,
  num_seeds: int,
  steps_per_epoch: int,
  variants: Sequence[Values] = ({},),
  traced: Sequence[str] = (),
) -> program.Program:
  """The program of all seeds of some variants.

  Args:
    config: of each run, but for what the variants change. Run `s` of a variant
      is the run of `alone` with the seed `config.seed + s`, to rounding.
    num_seeds: how many seeds.
    steps_per_epoch: steps in which the training rows are seen once.
    variants: values, the same keys in each. Those of several are floats, and
      arguments of the program.
    traced: keys whose values, floats, are arguments if there is one variant:
      compiled, the program is that of others, too.

  Returns:
    The program. Its runs are divided among the devices, and saved as they are
    on one, so that any number of devices can go on.
  """
  check_single(config)
  layout = layout_lib.make(len(variants), num_seeds)
  *_, place_of_seeds = layout.places
  unknown: dict[str, npt.NDArray[np.float32]]
  if is_many := len(variants) > 1:
    unknown = {
      key: np.array([variants[i][key] for i in layout.places[0]], np.float32)
      for key in variants[0]
    }
  else:
    config = configuration.with_values(config, variants[0])
    unknown = {key: np.asarray(variants[0][key], np.float32) for key in traced}

  def experiment_of(values: Values) -> training.Experiment:
    changed = configuration.with_values(config, values)
    return training.make(changed, steps_per_epoch)

  def init(values: dict[str, jax.Array], keys: jax.Array, batch: Any) -> _Run:
    # One by one: random numbers under vmap take long to compile.
    def of_variant(one: dict[str, jax.Array]) -> _Run:
      return lax.map(
        lambda seed: _Run(one, experiment_of(one).init(*seed)), (keys, batch)
      )

    return lax.map(of_variant, values) if is_many else of_variant(values)

  def train_step(run: _Run, batch: Any) -> tuple[_Run, Any]:
    state, metrics = experiment_of(run.values).train_step(run.state, batch)
    return run._replace(state=state), metrics

  def predict(run: _Run, *others: Any) -> Any:
    of_model = program.make_predict(config, experiment_of(run.values))
    return of_model(run.state.variables, *others)

  keys = jnp.stack([jax.random.key(config.seed + i) for i in place_of_seeds])
  init_all = jax.jit(layout.on_devices(init, VARIANTS, SEEDS, SEEDS))
  predict_all = layout.over_runs(predict, RUNS, SEEDS, SAME, SAME)

  def save(run: _Run) -> Any:
    # NumPy's: they are the same on any number of devices.
    return jax.tree.map(
      lambda leaf: layout.wanted(np.asarray(_key_data(leaf))), run.state
    )

  def shapes(batch: Any) -> Any:
    def saved(batch: Any) -> Any:
      state = init_all(unknown, keys, batch).state
      return jax.tree.map(lambda x: layout.wanted(_key_data(x)), state)

    return jax.eval_shape(saved, batch)

  def restore(saved: Any, batch: Any) -> _Run:
    like = jax.eval_shape(init_all, unknown, keys, batch)
    where = layout.sharding(RUNS)

    def restored(leaf: Any, like: Any) -> jax.Array:
      leaf = layout.filled(np.asarray(leaf))
      if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        leaf = jax.random.wrap_key_data(leaf)
      return jax.device_put(leaf, where)

    values = {
      key: jax.device_put(
        np.broadcast_to(value[..., None], like.values[key].shape), where
      )
      for key, value in unknown.items()
    }
    return _Run(values, jax.tree.map(restored, saved, like.state))

  def join(batches: Sequence[Any]) -> Any:
    return program.stack([batches[i] for i in place_of_seeds])

  def evaluation(
    inputs: Sequence[data.Data], split: str
  ) -> Iterator[dict[str, Any]]:
    """Batches whose inputs are [seeds], and targets and mask [runs]."""
    modalities = sorted(config.model.encoders)
    for batches in zip(*(one.evaluation(split) for one in inputs), strict=True):
      joined = join([evaluate.model_inputs(b, modalities) for b in batches])
      for name in ('mask', config.target):
        joined[name] = np.stack([b[name] for b in batches] * len(variants))
      yield joined

  feed, advance, megabytes = stepping.make(
    train_step, join, layout, config.donate_state
  )
  return program.Program(
    num_runs=len(variants) * num_seeds,
    init=lambda batch: init_all(unknown, keys, batch),
    join=join,
    feed=feed,
    advance=advance,
    megabytes=megabytes,
    rehearsals=rehearsals.Rehearsals(_rehearsing(experiment_of, layout), join),
    predict=jax.jit(
      lambda *arguments: jax.tree.map(layout.flat, predict_all(*arguments))
    ),
    evaluation=evaluation,
    shapes=shapes,
    save=save,
    restore=restore,
    runs_of=lambda run: jax.tree.map(layout.flat, run.state),
    layout=(tuple(place_of_seeds), layout.mesh.shape['seeds']),
  )


def check_single(config: config_dict.ConfigDict) -> None:
  """Refuses to divide each of several runs among the devices.

  Raises:
    ValueError: if `config.parallel` is not 'single'.
  """
  if config.parallel != 'single':
    raise ValueError(
      f'config.parallel is {config.parallel!r}, which divides a single run;'
      " several runs are spread over the devices whole. Expected 'single'."
    )


def _rehearsing(
  experiment_of: Callable[[Values], training.Experiment],
  layout: layout_lib.Layout,
) -> training.Experiment:
  """The experiment whose rehearsals are those of all runs."""
  experiment = experiment_of({})
  if experiment.rehearsal is None:
    return experiment

  def of(run: _Run) -> Any:
    return experiment_of(run.values).rehearsal

  def begin(run: _Run, batch: Any) -> Any:
    return of(run).begin(run.state, batch)

  def step_of(i: int) -> Callable[..., Any]:
    def step(run: _Run, scratch: Any, batch: Any) -> Any:
      return of(run).passes[i].step(run.state, scratch, batch)

    return layout.over_runs(step, RUNS, RUNS, SEEDS)

  def end(run: _Run, scratch: Any) -> _Run:
    return run._replace(state=of(run).end(run.state, scratch))

  return experiment._replace(
    rehearsal=experiment.rehearsal._replace(
      begin=layout.over_runs(begin, RUNS, SEEDS),
      passes=tuple(
        one._replace(step=step_of(i))
        for i, one in enumerate(experiment.rehearsal.passes)
      ),
      end=layout.over_runs(end, RUNS, RUNS),
    )
  )


def _key_data(leaf: Any) -> Any:
  """An array; of random keys what they are made of."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf
