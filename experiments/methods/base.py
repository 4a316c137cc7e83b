"""The interface that every method implements.

A training step is the same for every method. It asks the method for named
losses and takes their pullback. The method's gradient transformation turns the
pullback into a gradient, from which the optimizer makes updates. There are
three slots, which a method may fill or leave to the configuration: the model;
the losses and what weighs them; and what is done to the gradients.
`experiments.methods.common` makes most methods from one function: README.md
here shows such a file in full.

A method may also keep a memory between steps, hand the transformation more than
losses, update in several phases on one batch, and rehearse on the batches to
come before training goes on. Methods that need none of these can ignore them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax

import mimo_jax
from mimo_jax import nn

# The entry of params for what learns beside the model.
BESIDE = 'beside'

Batch = Mapping[str, Any]
Losses = dict[str, jax.Array]  # objective -> []
# What a comparison draws for a method: arguments of its `make`, each with
# `{'low': a, 'high': b, 'scale': 'log'}` (or 'linear') or `{'choices': (...)}`.
Space = Mapping[str, Mapping[str, Any]]


class TrainState(NamedTuple):
  """All that changes in training."""

  step: jax.Array  # [] int32, steps taken
  params: Any  # the model's and, if the method has some, those of `BESIDE`
  model_state: Any  # the model's other collections: batch statistics; or {}
  opt_state: optax.OptState  # the optimizer's and the weighting's state
  memory: Any  # the method's own; () for most
  key: jax.Array  # never changes; each step's key is folded from it

  @property
  def variables(self) -> dict[str, Any]:
    """What Flax applies: params and the other collections."""
    return {'params': self.params, **self.model_state}


class Task(NamedTuple):
  """What every method is given: the problem, and the user's choices."""

  model: nn.LateFusion
  # (outputs, targets, weights of rows if they differ) -> losses
  losses_of: Callable[..., Losses]
  target: str  # the name of the targets in a batch
  # What weighs the losses, and its name. The name 'joint' means that no
  # weighting is given: it is the sum, and no gradient flows from the model's
  # heads into the encoders.
  weighting: mimo_jax.Weighting
  weighting_name: str
  # updates per step -> what follows the method's transformation: the user's
  # transforms and optimizer, with schedules that count steps. A second
  # argument, path of a parameter -> its part, keeps the optimizer's state of
  # parts apart, for a method that holds some still or starts them anew.
  optimizer: Callable[..., optax.GradientTransformation]
  steps_per_epoch: int
  steps: int  # of the whole training; more once a run is made longer
  # `mimo_jax.balance` for the devices in use
  balance: Callable[..., optax.GradientTransformationExtraArgs] = (
    mimo_jax.balance
  )
  # the axis over which `jax.pmap` runs the step; None if it sees whole batches
  axis_name: str | None = None
  # modalities that rows may lack: batches say so in `<modality>_present`
  missing: tuple[str, ...] = ()
  # (keys on a parameter's path) -> whether it learns; parameters that do not
  # are frozen in copies of the model, too
  learns: Callable[[tuple[str, ...]], bool] = lambda _: True
  # encoders' parts of params, as 'encoders_visual', that begin with a file's
  warm: frozenset[str] = frozenset()
  # optimizer -> the one that moves once in as many steps as make an update
  accumulated: Callable[
    [optax.GradientTransformation], optax.GradientTransformation
  ] = lambda optimizer: optimizer

  @property
  def modalities(self) -> tuple[str, ...]:
    """Their names, sorted."""
    return tuple(sorted(self.model.encoders))

  @property
  def objectives(self) -> tuple[str, ...]:
    """The outputs, each of which has a loss: fused, then the modalities."""
    return ('fused', *self.modalities)

  @property
  def is_regression(self) -> bool:
    """Whether targets are numbers, and not classes."""
    return self.losses_of is not nn.cross_entropy_losses


class Seen(NamedTuple):
  """What a method saw while it computed its losses."""

  model_state: Any  # as the step leaves it
  memory: Any  # as the step leaves it
  # Extra arguments of the method's gradient transformation, such as scores.
  observed: Mapping[str, Any] = {}


# (state, batch, key, phase) -> losses, and what was seen
LossesFn = Callable[[TrainState, Batch, jax.Array, Any], tuple[Losses, Seen]]


class Pass(NamedTuple):
  """One pass over batches in a rehearsal."""

  # 'train' are the batches to come, which training will see again afterwards;
  # 'validation' are all rows of that split, each once, with `mask` [batch].
  split: Literal['train', 'validation']
  epochs: float  # of 'train', at least one batch; ignored for 'validation'
  # (state, scratch, batch) -> scratch
  step: Callable[[TrainState, Any, Batch], Any]


# The factor of a loss in a sum, or the function of the state that gives it.
Factor = float | Callable[[TrainState], jax.Array]


class Rehearsal(NamedTuple):
  """What a method does between steps, before training goes on.

  It is for what no single batch can tell: prototypes of all classes, how much
  each modality overfits, a teacher. The runner makes a scratch by `begin`,
  carries it through the passes, and lets `end` write the outcome into the
  state. All functions are pure, and vmapped over runs like the training step.
  """

  every_epochs: float | None  # None: once, before the first step
  begin: Callable[[TrainState, Batch], Any]  # the scratch; shapes of the batch
  passes: tuple[Pass, ...]
  end: Callable[[TrainState, Any], TrainState]  # (state, scratch) -> state
  # (path of a parameter) -> whether `end` moves it. The optimizer's moments and
  # averages of such a parameter then start anew; their count of steps does, if
  # all of its part move.
  moves: Callable[[tuple[str, ...]], bool] | None = None
  # With `every_epochs`, the number of the first rehearsal, where 0 is before
  # the first step, and that of the last one, None if there is none.
  first: int = 0
  last: int | None = None


class Method(NamedTuple):
  """A way to train a multi-modal model."""

  model: nn.LateFusion  # trained and evaluated: the task's, or a variant of it
  objectives: tuple[str, ...]  # names of the losses, those of the outputs first
  losses: LossesFn  # pure, differentiable in params; a key for each step
  # `gradients` turns the pullback of the losses into one gradient, as
  # `mimo_jax.balance` does, and `optimizer` follows. Both are given the losses
  # and `Seen.observed`, too.
  gradients: optax.GradientTransformationExtraArgs
  optimizer: optax.GradientTransformation
  # The losses whose sum is the primary objective, with their factors. The
  # weighting sees this sum as 'fused', and each loss is logged by its name.
  primary: Mapping[str, Factor] = {'fused': 1.0}
  # Completes the first state, such as its memory, which is () before. Random
  # draws are folded from its key.
  init: Callable[[TrainState, Batch], TrainState] = lambda state, _: state
  rehearsal: Rehearsal | None = None
  # Makes params that are not the model's, such as those of a network that a
  # loss has. They learn with it, as `params[BESIDE]`, and are not exported. The
  # state given has no optimizer state yet; draws are folded from its key.
  beside: Callable[[TrainState, Batch], Any] | None = None
  # A step updates once in each phase, on the same batch. The last phase must
  # give the losses of all objectives that earlier ones left out.
  phases: tuple[Any, ...] = (None,)
  # Whether the losses, memory and observations of a batch are the means of
  # those of its equal parts, and nothing is drawn. Only then may devices each
  # see a part, under `config.parallel='pmap'`; otherwise that is refused. If
  # rows lack a modality, a part counts by the rows that have it.
  is_mean_over_rows: bool = False
  # Whether rows that lack a modality are left out wherever it is looked at. If
  # not, such batches are refused.
  takes_missing: bool = False
