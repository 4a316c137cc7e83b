"""Tables, and values in the unit of their metric."""

import markdown_it
import numpy as np
import pytest

from experiments.report import measures
from experiments.report import tables
from tests.experiments.report.made_up import ERROR


@pytest.mark.quick
def test_a_table_aligns_numbers_and_refuses_ragged_rows():
  head = ['a', 'numbers', 'both']
  text = tables.markdown(head, [['x', '-1.5', '1'], ['yy', '2e-05', 'n']])
  assert text.splitlines() == [
    '| a   | numbers | both |',
    '| --- | ------: | ---- |',
    '| x   |    -1.5 | 1    |',
    '| yy  |   2e-05 | n    |',
  ]
  with pytest.raises(ValueError, match='zip'):
    tables.markdown(['a', 'b'], [['1']])


@pytest.mark.quick
def test_tables_by_columns_and_by_rows_leave_gaps_empty():
  by_row = {'mgda': {'ms': '7.5'}, 'mean': {'ms': '9', 'to': 'it'}}
  by_column = {'ms': {'mgda': '7.5', 'mean': '9'}, 'to': {'mean': 'it'}}
  text = tables.of_rows('rule', by_row)
  assert text == tables.of_cells('rule', by_column)
  assert text.splitlines()[2:] == [
    '| mgda | 7.5 |     |',
    '| mean |   9 | it  |',
  ]


@pytest.mark.quick
def test_any_text_is_a_cell_in_markdown_and_in_latex():
  cells = ["{'name': 'mimo'}", r'a|b\~c^<d>', '-1 ± 0', '$5 & 6 #7']
  table = tables.markdown(['[1, 2]', 'of|', 'c', 'd'], [cells, ['[3]'] * 4])
  assert table.count('|') == 4 * 5 + 2  # those within cells follow a \
  parser = markdown_it.MarkdownIt('commonmark').enable('table')
  html = parser.render(table)
  assert html.count('<td>') == 8 and '<td>a|b' in html
  header, above, below = (
    line for line in tables.latex(table).splitlines() if '&' in line
  )
  assert header == r'{[}1, 2] & of$|$ & c & d \\'
  assert above.split(' & ') == [
    r"\{'name': 'mimo'\}",
    r'a$|$b\textbackslash{}\textasciitilde{}c\textasciicircum{}$<$d$>$',
    r'$-$1 $\pm$ 0',
    r'\$5 \& 6 \#7 \\',
  ]
  assert below == r'{[}3] & [3] & [3] & [3] \\'


@pytest.mark.quick
def test_values_are_written_in_the_unit_of_their_metric():
  share, error = map(measures.Measure.of, ('weighted_f1', ERROR))
  assert (share.label, error.label) == ('weighted F1, %', 'mean absolute error')
  assert share.text([0.5, 0.7]) == '60.00 ± 10.00'
  # A mean between two digits is rounded in its printed unit.
  hits = [784, 786, 785, 787, 789, 783, 790, 785, 787, 782]
  assert share.text(np.array(hits) / 800) == '98.22 ± 0.10'
  assert share.text([-0.1, -0.1], sign='+') == '-10.00 ± 0.00'
  assert error.text([0.61236], sign='+') == '+0.6124'  # of one seed


@pytest.mark.quick
def test_the_best_is_bold_unless_it_is_nan():
  share, nan = measures.Measure.of('accuracy'), float('nan')
  some = {'a': np.array([0.4, nan]), 'b': np.array([0.5, 0.7])}
  columns = {
    'some': measures.Column(share, some),
    'none': measures.Column(share, {'a': some['a'], 'b': some['a']}),
  }
  assert measures.estimates(columns) == {
    'some': {'a': 'nan', 'b': '**60.00 ± 10.00**'},
    'none': {'a': 'nan', 'b': 'nan'},
  }
