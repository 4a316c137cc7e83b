"""Balanced multi-modal learning in JAX.

`balance` combines the gradients of several objectives inside an optax chain;
`mimo` is its default rule, `weightings` holds the others.
"""

from mimo_jax import _exports
from mimo_jax import solvers as solvers
from mimo_jax import weightings as weightings
from mimo_jax._balance import balance as balance
from mimo_jax._balance import BalanceState as BalanceState
from mimo_jax._conveniences import combine_with as combine_with
from mimo_jax._conveniences import value_and_updates as value_and_updates
from mimo_jax._version import __version__ as __version__
from mimo_jax.base import Direction as Direction
from mimo_jax.base import Observation as Observation
from mimo_jax.base import stateful as stateful
from mimo_jax.base import stateless as stateless
from mimo_jax.base import Weighting as Weighting
from mimo_jax.jacobian import combine as combine
from mimo_jax.jacobian import gramian as gramian
from mimo_jax.jacobian import pull_jacobian as pull_jacobian
from mimo_jax.jacobian import value_and_jacobian as value_and_jacobian
from mimo_jax.per_encoder._mla import orthogonal_head as orthogonal_head
from mimo_jax.per_encoder._mmpareto import mmpareto as mmpareto
from mimo_jax.per_encoder._ogm import ogm as ogm
from mimo_jax.per_encoder._ogm import ogm_ge as ogm_ge
from mimo_jax.pullbacks._examples import vjp_of_examples as vjp_of_examples
from mimo_jax.pullbacks._features import vjp_at_features as vjp_at_features
from mimo_jax.pullbacks._two_passes import two_passes as two_passes
from mimo_jax.weightings import mimo as mimo
from mimo_jax.wrappers._diagnosed import diagnosed as diagnosed
from mimo_jax.wrappers._diagnosed import DiagnosedState as DiagnosedState
from mimo_jax.wrappers._every import every as every
from mimo_jax.wrappers._normalized import normalized as normalized
from mimo_jax.wrappers._unit_gradients import unit_gradients as unit_gradients

__all__ = ['solvers', 'weightings', *_exports.public_names(globals())]
