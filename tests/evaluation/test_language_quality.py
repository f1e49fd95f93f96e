"""benchmarks/language_quality.py with listeners that are made up here: one that hears, and one that does not."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'language_quality.py'
LABELS = ('bird', 'fire', 'water', 'wind')


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('language_quality', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def items_of(script, number, label=lambda index: LABELS[index % 4], source=lambda index: 'here'):
    part = script.PARTS['sound', False]
    return [
        script.Item(f'r{index}', Path(f'r{index}.flac'), 'sound', label(index), (), part, source(index))
        for index in range(number)
    ]


class Listener:
    """Names what it hears, or always the first option."""

    def __init__(self, *, hears):
        self.hears, self.asked = hears, []

    def ask(self, item, question, options, others):
        self.asked.append(item.recording)
        words = [[(0.0, self.hears)], [(0.0, True), (-1.0, False)]]
        return (item.label if self.hears and item.label in options else options[0]), words if others else []


def test_a_listener_gains_and_a_deaf_one_does_not(script):
    for hears in (True, False):
        items = items_of(script, 40)
        outcomes = script.measured(Listener(hears=hears), items, 4)
        (row,) = script.table(outcomes)
        assert row['items'] == 40 and row['options'] == (100 if hears else 25)
        gain = float(row['gain'].split()[0])
        assert gain > 50 if hears else abs(gain) < 1
        (package,) = script.packages(outcomes)
        assert package['held out'] == 'here' and package['options'] == row['options']


def test_no_item_is_asked_with_its_own_recording_as_that_of_another(script):
    items = items_of(script, 9)
    listener = Listener(hears=True)
    script.measured(listener, items, 4)
    asked = np.array(listener.asked).reshape(9, 5)
    assert all(len(set(row)) == 5 for row in asked)
    assert all((np.sort(asked[:, column]) == sorted(set(listener.asked))).all() for column in range(5))


def test_labels_come_in_turn_and_sources_of_a_label_in_turn(script):
    items = items_of(
        script, 60, lambda index: 'bird' if index < 50 else 'fire', lambda index: 'large' if index % 10 else 'small'
    )
    chosen = script.balanced(items, 8)
    assert [item.label for item in chosen].count('bird') == 4
    birds = [item.source for item in chosen if item.label == 'bird']
    assert birds.count('small') == 2
