import pytest
import torch
from torch import nn

from nemo_audio_restore.networks.time_experts import TimeExperts, check_splits


class Constant(nn.Module):
    """Returns its number, and counts its calls."""

    frames_multiple = 4

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))
        self.calls = []

    def forward(self, x_t, t, condition=None):
        self.calls.append((t.tolist(), condition))
        return x_t * 0 + self.value + (0 if condition is None else condition)


def experts(*values):
    return [Constant(value) for value in values]


def test_each_time_goes_to_its_range_and_a_border_to_the_later_one():
    network = TimeExperts(experts(0, 1, 2), [(0.0, 0.3), (0.3, 0.7), (0.7, 1.0)])
    t = torch.tensor([0.0, 0.29, 0.3, 0.69, 0.7, 1.0])
    assert network.expert_index(t).tolist() == [0, 0, 1, 1, 2, 2]
    assert network(torch.zeros(6, 3, 2, 4), t)[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_mixed_batch_runs_each_expert_once_with_its_own_conditions():
    network = TimeExperts(experts(0, 10))
    t = torch.tensor([0.9, 0.1, 0.8])
    condition = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    y = network(torch.zeros(3, 3, 2, 4), t, condition)
    assert y[:, 0, 0, 0].tolist() == [11, 2, 13]
    low, high = network.experts
    assert len(low.calls) == len(high.calls) == 1
    torch.testing.assert_close(torch.tensor(high.calls[0][0]), t[[0, 2]])


def test_gradients_reach_only_the_experts_in_use():
    network = TimeExperts(experts(0, 10))
    network(torch.zeros(2, 3, 2, 4), torch.tensor([0.9, 0.8])).sum().backward()
    assert network.experts[0].value.grad is None
    assert network.experts[1].value.grad == 48


def test_only_the_expert_in_use_stays_on_the_other_device():
    network = TimeExperts(experts(0, 10), one_resident=True)
    moved = []
    for index, expert in enumerate(network.experts):
        expert.to = lambda device, index=index: moved.append((index, str(device)))
    network(torch.zeros(1, 3, 2, 4), torch.tensor([0.9]))
    network(torch.zeros(1, 3, 2, 4), torch.tensor([0.1]))
    assert moved == [(0, 'cpu'), (1, 'cpu'), (1, 'cpu'), (0, 'cpu')]
    moved.clear()
    network.double()
    assert moved == [(0, 'cpu'), (1, 'cpu')]  # every expert goes back to main memory before the next is touched
    assert all(expert.value.dtype == torch.float64 for expert in network.experts)
    everything = TimeExperts(experts(0, 10))
    everything.experts[1].to = lambda device: moved.append('never')
    everything(torch.zeros(1, 3, 2, 4), torch.tensor([0.1]))
    assert 'never' not in moved


@pytest.mark.gpu
def test_one_expert_on_the_gpu_at_a_time_gives_the_same_result():
    network = TimeExperts(experts(0, 10), one_resident=True).to('cuda')
    assert all(expert.value.device.type == 'cpu' for expert in network.experts)
    x = torch.zeros(2, 3, 2, 4, device='cuda')
    t = torch.tensor([0.9, 0.1], device='cuda')
    assert network(x, t)[:, 0, 0, 0].tolist() == [10, 0]
    assert sum(expert.value.device.type == 'cuda' for expert in network.experts) == 1


@pytest.mark.parametrize(
    ('splits', 'message'),
    [
        ([], 'from 0 to 1; got none'),
        ([(0.0, 0.5)], 'from 0 to 1'),
        ([(0.1, 1.0)], 'from 0 to 1'),
        ([(0.0, 0.4), (0.5, 1.0)], 'gap between 0.4 and 0.5'),
        ([(0.0, 0.6), (0.5, 1.0)], 'overlap between 0.5 and 0.6'),
        ([(0.0, 0.0), (0.0, 1.0)], 'must end after it starts'),
    ],
)
def test_ranges_that_do_not_cover_the_bridge_once_are_refused(splits, message):
    with pytest.raises(ValueError, match=message):
        check_splits(splits)


def test_experts_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match='1 experts for 2 ranges'):
        TimeExperts(experts(1))
    other = Constant(1)
    other.frames_multiple = 32
    with pytest.raises(ValueError, match=r'\[4, 32\]'):
        TimeExperts([Constant(0), other])
