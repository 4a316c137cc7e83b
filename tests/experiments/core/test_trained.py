"""A trained model can be used from its directory alone."""

import csv
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from pyarrow import parquet
from safetensors import numpy as safetensors

from data_pipelines import sources
from experiments import export
from experiments import predict
from experiments import probe
from experiments.core import data
from experiments.core import exporting
from experiments.core import signature
from experiments.core import trained
from experiments.evaluate import __main__ as evaluate
from tests.running import smoke


@pytest.fixture(scope='module')
def workdir(finished):
  """The directory of a run."""
  return finished[0]


@pytest.fixture(scope='module')
def run(workdir):
  """The trained model of that run."""
  return trained.load(workdir)


@pytest.fixture(scope='module')
def rows():
  """The test rows, as in the data set."""
  source = sources.open_source('handwritten', config='two', split='test')
  elements = [source[i] for i in range(len(source))]
  return {k: np.stack([e[k] for e in elements]) for k in ('fou', 'pix')}


def test_arrays_give_the_same_as_the_split_without_the_data_set(
  workdir, run, rows, monkeypatch
):
  expected, targets, _ = run.predict_split('test')
  monkeypatch.setattr(data, 'open_data', None)
  monkeypatch.setattr(sources, 'open_source', None)
  found = trained.load(workdir).predict(rows)
  assert found.keys() == expected.keys()
  assert {*found} == {'fused', 'heads', 'all', 'fou', 'pix'}
  for name, values in expected.items():
    assert values.shape == (len(targets), 10)
    np.testing.assert_array_equal(found[name], values)


def test_a_modality_may_be_missing_in_all_rows_or_in_some(run, rows):
  whole = run.predict(rows)
  without = run.predict({'pix': rows['pix']})
  assert np.isnan(without['fou']).all()
  np.testing.assert_allclose(without['pix'], whole['pix'], rtol=1e-5, atol=1e-5)
  assert not np.allclose(without['fused'], whole['fused'], atol=1e-2)
  lacks = np.arange(800) % 3 == 1
  nothing = np.arange(800) == 4
  some = {
    'fou': np.where(lacks[:, None], np.nan, rows['fou']),
    'pix': np.where(nothing[:, None], np.nan, rows['pix']),
  }
  found = run.predict(some)
  for name in ('fou', 'fused', 'pix'):
    expected = np.where(lacks[:, None], without[name], whole[name])
    expected[nothing] = np.nan
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
  assert all(np.isnan(values[nothing]).all() for values in found.values())
  said = {'fou_present': ~lacks, 'pix_present': ~nothing}
  chex.assert_trees_all_equal(run.predict(rows | said), found)


def test_integer_inputs_count_as_the_same_numbers(run, rows):
  signature = run.signature._replace(statistics=None)  # they give floats
  plain = run._replace(signature=signature)
  whole = {
    name: values[:5].round().astype(int) for name, values in rows.items()
  }
  floats = {name: values.astype(np.float32) for name, values in whole.items()}
  chex.assert_trees_all_equal(plain.predict(whole), plain.predict(floats))


def test_inputs_that_do_not_fit_the_model_are_refused(run, rows):
  for given, message in (
    ({}, r"rows of some of \['fou', 'pix'\]"),
    ({'fou': rows['fou'][:0]}, 'rows of some of'),
    (
      {'audio': rows['fou']},
      r"takes \['fou', 'pix'\]; it was given \['audio'\]",
    ),
    (rows | {'pix': rows['pix'][:3]}, "as many rows.*'pix': 3"),
    (rows | {'pix_present': [True]}, "as many rows.*'pix_present': 1"),
    ({'pix': rows['pix'][:, :7]}, r'rows of shape \(7,\).* \(240,\)'),
    ({'pix': rows['pix'].astype(str)}, 'pix is <U.*; expected numbers'),
    (
      {'pix': np.where(rows['pix'] == rows['pix'][1, 3], np.nan, rows['pix'])},
      'pix, row .*not finite; expected numbers',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      run.predict(given)


def test_a_signature_is_read_as_written(workdir, run, tmp_path):
  inputs = data.open_data(smoke(), 0)
  written = signature.of(inputs)
  assert next(inputs.train).keys() == {*written.row}  # from the first batch on
  for key, of_key in written.statistics._asdict().items():
    for name, values in of_key.items():
      np.testing.assert_array_equal(
        getattr(run.signature.statistics, key)[name], values
      )
  assert run.signature._replace(statistics=None) == written._replace(
    statistics=None
  )
  with pytest.raises(FileNotFoundError, match='no signature'):
    signature.read(tmp_path)
  text = (workdir / 'signature.json').read_text()
  for torn in (text[:60], '', '{}'):
    (tmp_path / 'signature.json').write_text(torn)
    with pytest.raises(ValueError, match='is damaged'):
      signature.read(tmp_path)


def test_a_directory_without_a_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='Train first'):
    trained.load(tmp_path)
  header = {
    'config': {},
    'tuning': [
      {
        'recipe': 'ogm+mimo',
        'candidates': [{'values': {}}, {'values': {'weight_decay': 0.01}}],
        'chosen': {'last': {'candidate': 1}},
      }
    ],
  }
  (tmp_path / 'results.jsonl').write_text(f'{json.dumps(header)}\n')
  with pytest.raises(
    FileNotFoundError,
    match=r'no models.*\n  ogm,mimo: --config.weight_decay=0\.01',
  ):
    trained.load(tmp_path)


def test_tables_have_the_predictions_of_the_model(workdir, rows, tmp_path):
  np.savez(tmp_path / 'new.npz', pix=rows['pix'], fou=rows['fou'] + 0.0)
  path = predict.predict(workdir, tmp_path / 'new.npz')
  assert path == workdir / 'predictions-new.csv'
  with path.open() as file:
    lines = list(csv.DictReader(file))
  logits = trained.load(workdir).predict(rows)
  for name, values in logits.items():
    chosen = [int(line[name]) for line in lines]
    np.testing.assert_array_equal(chosen, values.argmax(1))
    shares = np.exp(values - np.log(np.exp(values).sum(1, keepdims=True)))
    given = [float(line[f'{name}_probability']) for line in lines]
    np.testing.assert_allclose(given, shares.max(1), rtol=1e-5)
  table = predict.predict(workdir, output=tmp_path / 'all.parquet')
  columns = parquet.read_table(table).to_pydict()
  assert columns['fused'] == [int(line['fused']) for line in lines]
  assert len(set(columns['label'])) == 10
  np.savez(tmp_path / 'half.npz', pix=rows['pix'])
  half = predict.predict(workdir, tmp_path / 'half.npz')
  with half.open() as file:
    assert {(e['fou'], e['fou_probability']) for e in csv.DictReader(file)} == {
      ('-1', '')
    }
  with pytest.raises(ValueError, match=r'expected a \.csv or \.parquet'):
    predict.predict(workdir, output=tmp_path / 'all.txt')


def test_scores_are_those_of_training_and_others_on_request(finished):
  workdir, scores = finished
  assert evaluate.evaluate(workdir) == scores
  other = evaluate.evaluate(workdir, 'validation', ['macro_f1'], [0.25])
  assert 'noise/0.25' in other and 'macro_f1/fused' in other
  assert 'accuracy/fused' not in other


def test_another_data_set_is_not_scored(run):
  with pytest.raises(ValueError, match='not the one that the run was trained'):
    run._replace(fingerprints='another').predict_split('test')
  others = {**run.fingerprints, 'test': 'another'}
  with pytest.raises(ValueError, match='not the one that the run was trained'):
    run._replace(fingerprints=others).predict_split('test')
  # A run from before, of which only the training rows are known.
  of_train = run._replace(fingerprints=run.fingerprints['train'])
  assert len(of_train.predict_split('test')[1]) == 800


# Packages that pip installs with jax.
OF_JAX = ('jax', 'jaxlib', 'ml_dtypes', 'numpy', 'opt_einsum', 'scipy')
ALONE = """
import json
import jax, numpy
described = json.load(open('inputs.json'))
rows = numpy.load('rows.npz')
given = {k: v.astype(described['inputs'][k]['dtype']) for k, v in rows.items()}
model = jax.export.deserialize(open('model.jax_export', 'rb').read())
outputs = model.call(given, numpy.ones(2, bool))
numpy.save('fused.npy', outputs['fused'])
"""


def test_an_exported_model_runs_with_jax_and_flatbuffers_only(
  run, rows, tmp_path
):
  exporting.export(run, tmp_path)
  np.savez(tmp_path / 'rows.npz', **rows)
  # Only the packages that `pip install jax flatbuffers` installs.
  for name in ('flatbuffers', *OF_JAX):
    package = pathlib.Path(importlib.util.find_spec(name).origin).parent
    for one in package, package.with_name(f'{name}.libs'):
      if one.exists():
        (tmp_path / one.name).symlink_to(one)
  finished = subprocess.run(
    [sys.executable, '-S', '-c', ALONE],
    cwd=tmp_path,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ''},
    capture_output=True,
    check=False,
    text=True,
  )
  assert finished.returncode == 0, finished.stderr
  np.testing.assert_allclose(
    np.load(tmp_path / 'fused.npy'),
    run.predict(rows)['fused'],
    rtol=1e-4,
    atol=1e-4,
  )


def test_an_exported_model_equals_the_model(run, rows, tmp_path):
  exporting.export(run, tmp_path)
  program = jax.export.deserialize(
    bytearray((tmp_path / 'model.jax_export').read_bytes())
  )
  described = json.loads((tmp_path / 'inputs.json').read_text())
  assert described['is_present'] == ['fou', 'pix']
  for count in (1, 7):
    some = {name: value[:count] for name, value in rows.items()}
    typed = {
      name: some[name].astype(described['inputs'][name]['dtype'])
      for name in some
    }
    for flags, given in (
      ([True, True], some),
      ([False, True], {'pix': some['pix']}),
    ):
      found = program.call(typed, np.array(flags))
      assert sorted(found) == described['outputs']
      expected = run.predict(given)['fused']
      np.testing.assert_allclose(found['fused'], expected, rtol=1e-4, atol=1e-4)
  params = safetensors.load_file(tmp_path / 'params.safetensors')
  leaves = jax.tree.leaves(run.state.variables)
  assert len(params) == len(leaves)
  assert sum(value.size for value in params.values()) == sum(
    leaf.size for leaf in leaves
  )
  name = next(name for name in params if name.endswith('kernel'))
  leaf = run.state.variables
  for part in name.split('.'):
    leaf = leaf[part]
  np.testing.assert_array_equal(params[name], leaf)


def test_the_encoders_of_a_run_can_be_probed(finished, monkeypatch, capsys):
  workdir, scores = finished
  monkeypatch.setattr('sys.argv', ['probe.py', f'--run={workdir}'])
  probe.main()
  said = capsys.readouterr().out
  probed = dict(re.findall(r'\| probe/(\w+) +\| +([\d.]+)', said))
  assert set(probed) == {'fou', 'pix', 'fused'}
  # A probe at its optimum beats heads after 30 steps.
  for name, value in probed.items():
    assert scores[f'accuracy/{name}'] < float(value) < 1


def test_errors_of_commands_say_what_is_wrong_and_what_was_found(
  workdir, tmp_path, monkeypatch, capsys
):
  for command in (predict, evaluate, export, probe):
    monkeypatch.setattr('sys.argv', ['it.py', f'--run={tmp_path}/none'])
    with pytest.raises(SystemExit, match='Train first'):
      command.main()
  path = tmp_path / 'scores.json'
  monkeypatch.setattr(
    'sys.argv',
    [
      'evaluate.py',
      f'--run={workdir}',
      '--noise_levels=1,2',
      f'--output={path}',
    ],
  )
  evaluate.main()
  assert '| noise/2' in capsys.readouterr().out
  found = json.loads(path.read_text())
  assert found['noise/1'] > found['noise/2']
