"""How recipes were tuned, what was chosen, and what it cost."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.core import variants
from experiments.report import results as results_lib
from experiments.report import tables
from experiments.report.results import Results


def costs(results: Sequence[Results]) -> dict[str, dict[str, str]]:
  """Columns of time and memory by the reference's: medians over comparisons."""
  reference = results[0].header['reference']
  ratios: dict[str, Callable[[Results, str], float]] = {
    f'time / {reference}': Results.relative_time,
    f'memory / {reference}': Results.relative_memory,
  }
  if results[0].tuning:
    ratios[f'tuning and training / {reference}'] = Results.relative_total
  recipes = dict.fromkeys(name for one in results for name in one.variants)

  def text(ratio: Callable[[Results, str], float], name: str) -> str:
    found = [ratio(one, name) for one in results if name in one.variants]
    return f'{np.median(found):.2f}'

  return {
    title: {name: text(ratio, name) for name in recipes}
    for title, ratio in ratios.items()
  }


def about_costs(results: Results) -> str:
  """Says what the columns of costs are."""
  reference = results.header['reference']
  total = ''
  if results.tuning:
    total = (
      ' Tuning and training: seconds of all candidates and of the final runs,'
      f' relative to training {reference} once.'
    )
  return (
    f'Time: seconds per training step relative to {reference}, with all seeds'
    " in one program; the median over calls, plus a method's work between"
    ' steps, averaged over the steps. Memory: what a step needs,'
    f' likewise.{total}'
  )


def about_tuning(results: Results) -> str:
  """Says how recipes were tuned."""
  settings = results.config['tuning']
  tried = sorted({len(one['candidates']) for one in results.tuning})
  ranges = {
    key: f'{draw["low"]:.3g} to {draw["high"]:.3g}'
    for key, draw in variants.draws(settings['space'])
  }
  seeds = tables.count(settings['num_seeds'], 'seed')
  rows = 'each with its own rows, ' if results.config['data']['redraw'] else ''
  return (
    f'For every recipe {"/".join(map(str, tried))} candidates were tried: its'
    f' default, and random draws of {tables.short(ranges, " ")} and of its own'
    f' hyperparameters. {settings["num_more"]} of them were added in each of at'
    f' most {tables.count(settings["rounds"], "round")}, which widened every'
    " range at whose edge any recipe's choice lay. Each candidate was trained"
    f' on {seeds} ({rows}the same for all). The candidate and read-out with the'
    ' best mean on validation are chosen; among those that tie with it (a'
    ' paired difference of at most one standard error) the simplest wins: the'
    ' default first, then the fused output. The choice was then trained on'
    f' {tables.count(results.config["num_seeds"], "seed")} and tested once.'
    ' *Chosen*: the chosen read-out. *Stopped early*: the same, with the length'
    ' of training chosen on validation, too, for every recipe.'
  )


def chosen(
  results: Results, kind: results_lib.Kind
) -> dict[str, dict[str, str]]:
  """What validation chose: column -> recipe -> text."""
  cells: dict[str, dict[str, str]] = {}
  for one in results.tuning:
    choice = results.choices(kind)[one['recipe']]
    values = one['candidates'][choice.candidate]['values']
    texts = {
      'candidates': str(len(one['candidates'])),
      'values': tables.short(
        {k: tables.value(v) for k, v in values.items()}, ' '
      ),
      'read-out': choice.readout,
      'step': str(choice.step),
      'validation': results.measure.text_of(choice.mean, choice.error),
      'ties': str(choice.num_tied),
    }
    for title, text in texts.items():
      cells.setdefault(title, {})[one['recipe']] = text
  return cells


def parts(results: Results) -> list[str]:
  """How recipes were tuned, and what was chosen."""
  if not results.tuning:
    return []
  return [about_tuning(results), *choices(results)]


def choices(results: Results, where: str = '') -> list[str]:
  """What validation chose, without and with early stopping."""
  last, early = chosen(results, 'last'), chosen(results, 'stopped')
  del early['candidates']
  steps = results.config['steps']
  never = [name for name, step in early['step'].items() if step == str(steps)]
  return [
    f'What validation chose{where}, its mean score there ± standard error, and'
    ' how many of the compared combinations tie with the best:',
    tables.of_cells(
      'recipe', last | {f'{k}, stopped early': v for k, v in early.items()}
    ),
    f'Early stopping takes the last of {steps} steps for {len(never)} of'
    f' {tables.count(len(early["step"]), "recipe")}: with more steps they may'
    ' improve, and their order may change.',
  ]
