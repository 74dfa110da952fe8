import torch
from torch import nn

from scripts.training import comparison


class Recorder(nn.Linear):
    """Notes the number of threads it runs with."""

    def __init__(self, threads: list[int]):
        super().__init__(2, 2)
        self.threads = threads

    def forward(self, x):
        self.threads.append(torch.get_num_threads())
        return super().forward(x)


def test_steps_are_timed_on_one_thread_and_the_threads_given_back():
    threads: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        models = {name: lambda: Recorder(threads) for name in "ab"}
        seconds = comparison.step_seconds(models, (torch.rand(3, 2),), torch.tensor([0, 1, 0]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
    assert len(threads) >= 2 * comparison.REPEATS
    assert seconds.keys() == {"a", "b"}
