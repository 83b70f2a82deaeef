"""The passes of stacked multilayer perceptrons, against each network by itself."""

import pytest
import torch
from torch import nn

from sim import data, models
from sim.training import TrainConfig
from sim.training.engine.batch import predicted
from sim.training.engine.fast.lanewise import SIZES, lanewise
from sim.training.engine.network import Network

LANES = 3


def stacked(**options):
    """Separate networks, and the passes of the same ones in one, with their parameters."""
    made = [
        models.build("mlp", in_shape=(2, 3), classes=4, seed=seed, **options).double()
        for seed in range(LANES)
    ]
    parameters = [
        torch.stack([p.detach() for p in each]).requires_grad_()
        for each in zip(*(model.parameters() for model in made), strict=True)
    ]
    # Not whole in memory, as where the optimizer reads them.
    room = [torch.full((LANES, p[0].numel() + 5), torch.nan).double() for p in parameters]
    places = [
        r[:, : p[0].numel()].unflatten(1, p.shape[1:])
        for r, p in zip(room, parameters, strict=True)
    ]
    passes = lanewise(made[0], parameters, places)
    assert passes is not None
    return made, passes, parameters, places


def inputs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LANES, n, 2, 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("hidden", [(), (5,), (7, 6, 5)])
def test_outputs_and_gradients_are_those_of_each_network(activation, hidden):
    made, passes, parameters, places = stacked(hidden=hidden, activation=activation)
    # Another size in between, and the same one again: memory is kept, not what is in it. The
    # second pass adds to the gradients, as those of a batch in parts.
    for parameter in parameters:
        parameter.grad = None
    for n, seed in ((9, 0), (4, 1), (9, 2)):
        x = inputs(n, seed)
        output = passes(x)
        assert output.shape == (LANES, 4, n)
        weights = torch.linspace(0.5, 2, 4 * n, dtype=torch.float64).view(4, n)
        (output.sin() * weights).sum().backward()
        for lane, model in enumerate(made):
            alone = model(x[lane])
            torch.testing.assert_close(output[lane].mT, alone, rtol=1e-12, atol=1e-13)
            (alone.sin() * weights.T).sum().backward()
        with torch.no_grad():
            again = passes(x)
        torch.testing.assert_close(again, torch.stack([m(x[k]).mT for k, m in enumerate(made)]))
    for k, (parameter, place) in enumerate(zip(parameters, places, strict=True)):
        assert parameter.grad is place
        expected = torch.stack([list(model.parameters())[k].grad for model in made])
        # Sums of some dozen products in another order.
        torch.testing.assert_close(place, expected, rtol=1e-11, atol=1e-12)


def test_of_many_batch_sizes_few_are_kept():
    _, passes, _, _ = stacked(hidden=(5,))
    for n in range(1, 2 * SIZES + 2):
        passes(inputs(n)).sum().backward()
        assert len(passes._layers_by_size) <= SIZES


def test_a_pass_whose_activations_are_gone_is_not_taken_back():
    _, passes, _, _ = stacked(hidden=(5,))
    first = passes(inputs(3))
    with torch.no_grad():
        passes(inputs(3, 1))
    with pytest.raises(RuntimeError, match="written over"):
        first.sum().backward()


def test_weights_are_read_where_they_are():
    made, passes, parameters, _ = stacked(hidden=(5,))
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(2)
        found = passes(inputs(3))
        for model in made:
            for parameter in model.parameters():
                parameter.mul_(2)
        expected = torch.stack([m(inputs(3)[k]).mT for k, m in enumerate(made)])
    torch.testing.assert_close(found, expected)


def test_other_networks_are_left_to_vmap():
    linear = nn.Linear(2, 2)
    for model in (
        nn.Sequential(nn.Flatten(), linear, nn.ReLU()),
        nn.Sequential(linear, linear),
        nn.Sequential(linear, nn.Dropout(0.5), linear),
        nn.Sequential(linear, nn.Softmax(-1), linear),
        nn.Sequential(linear, nn.GELU("tanh"), linear),
        nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), linear),
        nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU(), linear),
        linear,
    ):
        assert lanewise(model, [], []) is None
    assert lanewise(nn.Sequential(nn.Flatten(), linear, nn.ReLU(), linear), [], []) is not None


def test_lanes_of_a_multilayer_perceptron_are_trained_so():
    base = TrainConfig(epochs=1, model_options={"hidden": [4]})
    for changes, by_hand in (
        ({}, True),
        ({"precision": "bfloat16"}, False),
        ({"model": "lenet"}, False),
    ):
        options = {} if "model" in changes else {"hidden": [4]}
        config = base.replace(**changes, model_options=options)
        configs = [config.replace(seed=seed) for seed in range(2)]
        network = Network(configs, data.load("digits"))
        assert (network._lanewise is not None) == by_hand


def test_of_equal_outputs_the_first_class_is_predicted():
    output = torch.randint(0, 3, (LANES, 5, 50), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.stack([lane.argmax(0) for lane in output])
    ties = (output == output.amax(1, keepdim=True)).sum(1) > 1
    assert ties.any()
    assert torch.equal(predicted(output), expected)
    assert torch.equal(predicted(output[0].mT), expected[:1])
