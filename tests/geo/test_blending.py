import copy
import warnings

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close
from torchvision.models.resnet import BasicBlock

import mgic_geo
import mgic_vision
from mgic_geo import MGICMessagePassing, finish, num_weights, set_blend
from mgic_geo.blending import Blend

EDGES = torch.tensor([[0, 1, 2, 3, 4, 2], [1, 2, 3, 4, 0, 0]])


def graph_network(**options):
    torch.manual_seed(0)
    model = pyg.GraphSAGE(16, 32, num_layers=3, out_channels=4).eval()
    inputs = torch.rand(5, 16), EDGES
    return model, inputs, mgic_geo.convert(model, group_size=8, **options)


def image_network(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), BasicBlock(64, 64), BasicBlock(64, 64)).eval()
    inputs = (torch.rand(2, 3, 8, 8),)
    return model, inputs, mgic_vision.convert(model, group_size=16, include=["1"], **options)


@pytest.mark.parametrize("make", [graph_network, image_network])
def test_network_goes_from_the_original_to_the_converted_one(make):
    torch.manual_seed(1)
    model, inputs, (new, report) = make(gradual=True)
    assert_close(new(*inputs), model(*inputs), rtol=0, atol=1e-5)

    set_blend(new, 0.25)
    blend = next(module for module in new.modules() if isinstance(module, Blend))
    seen = []
    blend.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    new(*inputs)
    own, output = seen[0]
    mixed = 0.25 * blend.original(*own) + 0.75 * blend.replacement(*own)
    assert_close(output, mixed, rtol=1e-5, atol=1e-5)

    set_blend(new, 0.0)
    before = new(*inputs)
    done = finish(new)
    assert not any(isinstance(module, Blend) for module in done.modules())
    assert_close(done(*inputs), before, rtol=1e-5, atol=1e-5)
    assert num_weights(done) == report.weights_after
    assert report.rows == make()[2][1].rows


def test_originals_that_still_count_are_not_dropped():
    _, _, (new, _) = graph_network(gradual=True)
    set_blend(new, 0.5)
    with pytest.raises(ValueError, match="originals still count with"):
        finish(new)
    with pytest.raises(ValueError, match="share must be from 0 to 1, got"):
        set_blend(new, 1.5)
    with pytest.raises(ValueError, match="nothing to blend: convert it with gradual=True"):
        set_blend(nn.Linear(2, 2), 0.0)


def test_both_sides_are_trained_and_the_share_is_saved():
    _, inputs, (new, _) = graph_network(gradual=True)
    set_blend(new, 0.5)
    new.train()(*inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in new.parameters())
    other = copy.deepcopy(new)
    set_blend(other, 1.0)
    other.load_state_dict(new.state_dict())
    assert_close(other.eval()(*inputs), new.eval()(*inputs))


def test_hooks_of_the_original_stay_on_it():
    model, inputs, _ = graph_network()
    seen = []
    model.convs[1].lin_l.register_forward_hook(lambda *_: seen.append(1))
    new, _ = mgic_geo.convert(model, group_size=8, gradual=True)
    new(*inputs)
    assert seen == [1]


def test_a_network_that_is_one_convolution_is_finished():
    new, _ = mgic_geo.convert(pyg.SAGEConv(32, 32), group_size=8, gradual=True)
    set_blend(new, 0.0)
    assert isinstance(finish(new), MGICMessagePassing)


def test_a_layer_at_two_places_is_finished_at_both():
    blend = Blend(nn.Linear(4, 4), nn.Linear(4, 4))
    model = nn.Sequential(blend, nn.ReLU(), blend)
    set_blend(model, 0.0)
    finish(model)
    assert model[0] is model[2] is blend.replacement


def test_lightning_trains_from_the_original_to_the_converted_network():
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    from mgic_geo.lightning import BlendSchedule

    class Regression(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Blend(nn.Linear(3, 1), nn.Linear(3, 1))
            self.shares = []

        def training_step(self, batch):
            self.shares.append(round(float(self.network.share), 3))
            return (self.network(batch[0]) - 1).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module, data = Regression(), DataLoader(TensorDataset(torch.rand(4, 3)), num_workers=0)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=2,
        callbacks=BlendSchedule(),
        accelerator="cpu",
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        trainer.fit(module, data)
    assert module.shares == [1.0, 0.854, 0.5, 0.146, 0.0, 0.0, 0.0, 0.0]
    assert isinstance(finish(module.network), nn.Linear)


def test_a_schedule_that_never_ends_is_refused():
    pytest.importorskip("lightning")
    from mgic_geo.lightning import BlendSchedule

    with pytest.raises(ValueError, match="until must be above 0 and at most 1, got 0"):
        BlendSchedule(until=0)
