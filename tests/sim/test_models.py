import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sim import models


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 23_272_266),
        ("resnet18", 11_173_962),
        ("lenet", 136_886),
        ("mlp", 411_146),
        ("transformer", 107_978),
    ],
)
def test_published_sizes(name, parameters):
    assert count(models.build(name, seed=0)) == parameters


def test_alexnet_layer_by_layer():
    shapes = {n: tuple(p.shape) for n, p in models.build("alexnet").named_parameters()}
    widths = [3, 64, 192, 384, 256, 256]
    for k in range(1, 6):
        assert shapes[f"conv{k}.weight"] == (widths[k], widths[k - 1], 3, 3)
        assert shapes[f"conv{k}.bias"] == (widths[k],)
    assert shapes["fc1.weight"] == (4096, 1024)
    assert shapes["fc2.weight"] == (4096, 4096)
    assert shapes["fc3.weight"] == (10, 4096)
    assert len(shapes) == 16


def alexnet_by_hand(p, x):
    x = F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
    for k, stride, pool in ((1, 2, 1), (2, 1, 1), (3, 1, 0), (4, 1, 0), (5, 1, 1)):
        x = F.conv2d(x, p[f"conv{k}.weight"], p[f"conv{k}.bias"], stride=stride, padding=1)
        x = x.clamp(min=0)
        if pool:
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
    x = x.reshape(len(x), -1)
    for k in (1, 2, 3):
        x = x @ p[f"fc{k}.weight"].T + p[f"fc{k}.bias"]
        x = x if k == 3 else x.clamp(min=0)
    return x


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (2, 28, 20)])
def test_alexnet_computes_what_it_says(shape):
    model = models.build("alexnet", in_shape=shape, width=0.1, classes=7, seed=1).eval().double()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = alexnet_by_hand(dict(model.named_parameters()), x)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_alexnet_drops_before_the_two_hidden_layers():
    model = models.build("alexnet", width=0.05, dropout=0.5, seed=0)
    x = torch.randn(2, 3, 32, 32)
    assert model.training
    assert not torch.equal(model(x), model(x))
    seen = {}
    for name in ("fc1", "fc2", "fc3"):
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: seen.__setitem__(name, args[0])
        )
    for module in (model.dropout1, model.dropout2):
        module.p = 0.999
    model(x)
    assert float((seen["fc1"] == 0).double().mean()) > 0.9
    assert float((seen["fc2"] == 0).double().mean()) > 0.9
    model.dropout1.p = model.dropout2.p = 0.0
    model(x)
    assert float((seen["fc3"] == 0).double().mean()) < 0.9


@pytest.mark.parametrize("width", [0.5, 0.01, 2.0])
def test_width_scales_every_hidden_layer(width):
    model = models.build("alexnet", width=width, seed=0) if width < 2 else None
    if model is not None:
        assert model.conv3.out_channels == max(1, round(384 * width))
        assert model.fc2.weight.shape == (max(1, round(4096 * width)),) * 2
    assert models.build("mlp", hidden=(10,), width=width).fc1.out_features == max(
        1, round(10 * width)
    )
    assert models.build("lenet", width=width).conv2.out_channels == max(1, round(16 * width))
    if width <= 0.5:
        assert models.build("resnet18", width=width).fc.in_features == max(1, round(512 * width))


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_logits(name, shape):
    model = models.build(name, in_shape=shape, classes=5, width=0.1, seed=0)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("activation", "by_hand"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("tanh", lambda x: 1 - 2 / ((2 * x).exp() + 1)),
        ("gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
    ],
)
def test_mlp_by_hand(activation, by_hand):
    model = models.build("mlp", in_shape=(2, 3), hidden=(5, 4), activation=activation, seed=0)
    p = dict(model.double().named_parameters())
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    y = x.reshape(7, 6)
    for k in (1, 2, 3):
        y = y @ p[f"fc{k}.weight"].T + p[f"fc{k}.bias"]
        y = by_hand(y) if k < 3 else y
    torch.testing.assert_close(model(x), y, rtol=1e-12, atol=1e-12)


def test_mlp_dropout_and_no_hidden_layer():
    model = models.build("mlp", in_shape=(4,), hidden=(50,), dropout=0.5, seed=0)
    x = torch.ones(3, 4)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    assert [n for n, _ in models.build("mlp", hidden=()).named_parameters()] == [
        "fc1.weight",
        "fc1.bias",
    ]


def test_resnet18_has_the_tensors_of_the_cifar_form():
    model = models.build("resnet18", seed=0)
    tensors = list(model.parameters())
    assert (len(tensors), sum(p.dim() == 1 for p in tensors)) == (62, 41)
    sides = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda _, __, y: sides.append(tuple(y.shape[1:])))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert sides == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_resnet18_adds_the_input_of_a_block():
    model = models.build("resnet18", width=0.05, seed=0).eval()
    block = model.layer1[0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, block.conv1.in_channels, 4, 4)
    torch.testing.assert_close(block(x), x)


# seeds


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", models.MODELS)
def test_a_seed_fixes_the_weights_and_leaves_the_global_state(name):
    def make(seed):
        return models.build(name, width=0.1, seed=seed)

    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = make(5)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert same(first, make(5))
    assert not same(first, make(6))


def test_lenet_drops_before_its_hidden_linear_layers():
    model = models.build("lenet", in_shape=(1, 8, 8), dropout=0.5, seed=0)
    names = [name for name, _ in model.named_children()]
    assert [names[names.index(f"dropout{k}") + 1] for k in (1, 2)] == ["fc1", "fc2"]
    assert model.dropout1.p == model.dropout2.p == 0.5
    assert not any("dropout" in name for name, _ in models.build("lenet").named_children())


def test_transformer_is_torchs_own_encoder():
    ours = models.build("transformer", in_shape=(2, 8, 6), classes=3, depth=2, heads=4, seed=0)
    ours = ours.double().eval()
    assert ours.position.shape == (12, 64)
    x = torch.randn(3, 2, 8, 6, dtype=torch.float64)
    # Patches by hand: each token is a linear map of a patch's 2x2x2 numbers.
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
    stream = patches @ ours.embed.weight.flatten(1).T + ours.embed.bias + ours.position
    for block in ours.blocks:
        theirs = nn.TransformerEncoderLayer(
            64, 4, 256, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).double()
        attention = block.attention
        theirs.self_attn.in_proj_weight.data = attention.qkv.weight.data
        theirs.self_attn.in_proj_bias.data = attention.qkv.bias.data
        theirs.self_attn.out_proj.load_state_dict(attention.out.state_dict())
        for a, b in (
            ("norm1", "norm1"),
            ("norm2", "norm2"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        ):
            getattr(theirs, a).load_state_dict(getattr(block, b).state_dict())
        stream = theirs(stream)
    expected = ours.head(ours.norm(stream).mean(1))
    torch.testing.assert_close(ours(x), expected, rtol=1e-10, atol=1e-12)


def test_transformer_sizes():
    assert models.build("transformer", seed=0).embed.kernel_size == (4, 4)
    small = models.build("transformer", in_shape=(1, 8, 8), width=0.25, heads=2, depth=1, patch=4)
    assert small.position.shape == (4, 16)
    assert len(small.blocks) == 1
    dropping = models.build("transformer", in_shape=(1, 8, 8), dropout=0.5, seed=0)
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(dropping(x), dropping(x))


def test_without_a_seed_the_global_state_decides():
    torch.manual_seed(5)
    a, b = models.build("mlp"), models.build("mlp")
    torch.manual_seed(5)
    assert same(a, models.build("mlp"))
    assert not same(a, b)


def test_the_state_is_left_even_when_building_fails(monkeypatch):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="in_shape"):
        models.build("lenet", in_shape=(1, 2, 2), seed=1)
    assert torch.equal(state, torch.get_rng_state())


# names and refusals


def test_first_linear():
    assert models.first_linear(models.build("alexnet", width=0.1)) == "fc1.weight"
    assert models.first_linear(models.build("resnet18", width=0.1)) == "fc.weight"
    assert models.first_linear(nn.Linear(2, 2)) == "weight"
    with pytest.raises(ValueError, match=r"^model: Conv2d has no torch.nn.Linear; name the param"):
        models.first_linear(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, r"^name: unknown value 'vgg'; choose one of alexnet, lenet, mlp, resnet"),
        ({"name": "resnet18", "dropout": 0.1}, r"^dropout: no such option .* options are: width$"),
        ({"name": "mlp", "depth": 3}, r"^depth: no such option for the model 'mlp'; .* hidden, "),
        ({"name": "mlp", "activation": "elu"}, r"^activation: unknown value 'elu'; .* gelu, relu"),
        ({"name": "mlp", "hidden": (4, 0)}, r"^hidden: got 0; give a whole number at least 1"),
        ({"name": "mlp", "hidden": 4}, r"^hidden: got 4; give a sequence of layer sizes"),
        ({"name": "mlp", "classes": 0}, r"^classes: got 0; give a whole number at least 1"),
        ({"name": "mlp", "in_shape": ()}, r"^in_shape: got an empty shape"),
        ({"name": "mlp", "in_shape": (0,)}, r"^in_shape: got 0; give a whole number at least 1"),
        ({"name": "mlp", "seed": -1}, r"^seed: got -1; give a whole number at least 0"),
        ({"name": "alexnet", "width": 0}, r"^width: got 0; give a number above 0 and finite"),
        ({"name": "alexnet", "width": math.nan}, r"^width: got nan; give a number above 0"),
        ({"name": "alexnet", "dropout": 1.0}, r"^dropout: got 1.0; give a number at least 0 and b"),
        ({"name": "alexnet", "dropout": "x"}, r"^dropout: got 'x'; give a number at least 0 and b"),
        ({"name": "alexnet", "in_shape": (3, 64, 64)}, r"^in_shape: \(3, 64, 64\) is larger than"),
        ({"name": "alexnet", "in_shape": (20,)}, r"^in_shape: \(20,\) is not the shape of an imag"),
        (
            {"name": "transformer", "patch": 5},
            r"^patch: 5 does not divide the sides of \(3, 32, 32",
        ),
        ({"name": "transformer", "depth": 0}, r"^depth: got 0; give a whole number at least 1"),
        ({"name": "mlp", "hiden": (4,)}, r"^hiden: .* did you mean 'hidden'\?$"),
        ({"name": "lenet", "in_shape": (1, 3, 8)}, r"^in_shape: \(1, 3, 8\) is too small for len"),
    ],
)
def test_build_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(**arguments)
