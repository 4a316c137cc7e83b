"""What a method is refused."""

import re

import pytest

from experiments import methods
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_options_out_of_range_are_named():
  for name, option, value, expected in (
    ('cml', 'released', 'authors', "None or 'balance_benchmark'"),
    ('lfm', 'released', 'mcr', "None or 'authors'"),
    ('g_blending', 'super_epochs', 0.0, 'a number above 0; offline=True'),
    ('g_blending', 'negative', 'drop', "'zero' or 'absolute'"),
    ('g_blending', 'total', 1.0, "'one' or 'objectives'"),
    ('pmr', 'rule', 'paper', "'switch' or 'clipped'"),
    ('umt', 'strength', -1.0, 'a number of at least 0'),
    ('umt', 'teacher_epochs', 0, 'a number above 0'),
  ):
    message = f'{name} was given {option}={value!r}; expected {expected}'
    checks.assert_refused(
      re.escape(message),
      getattr(methods, name).make,
      recorded.make_task(),
      **{option: value},
    )
