"""The README's picture: every second derivative of a trained AlexNet, layer by layer.

python docs/pictures/curvature.py
"""

from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import nn

import hessian
import sim

PICTURE = Path(__file__).with_suffix(".svg")
EPOCHS, BATCH = 15, 64


def trained() -> tuple[nn.Module, sim.data.Dataset]:
    """AlexNet at a quarter of its width (1.5 million parameters), trained on the digits."""
    data = sim.data.load("digits")
    model = sim.models.build("alexnet", width=0.25, in_shape=data.shape, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    torch.manual_seed(0)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data)).split(BATCH):
            optimizer.zero_grad()
            outputs = model(data.inputs[index])
            nn.functional.cross_entropy(outputs, data.targets[index]).backward()
            optimizer.step()
    return model.eval(), data


def draw(curvature: hessian.Diagonal, accuracy: float) -> Figure:
    """Quantiles of |d²L/dw²|: a thin bar from 5 to 95 %, a thick one from 25 to 75 %."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in curvature))
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, shift, colour in (("weight", -0.14, "#1f5a91"), ("bias", 0.14, "#c4622d")):
        for place, layer in enumerate(layers):
            values = curvature[f"{layer}.{kind}"].abs().flatten()
            values = values[values > 0]  # units that no sample wakes have none
            levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
            low, first, middle, third, high = torch.quantile(values, levels).tolist()
            x = place + shift
            axes.plot([x, x], [low, high], color=colour, linewidth=1.5)
            axes.plot([x, x], [first, third], color=colour, linewidth=7, solid_capstyle="butt")
            axes.plot(
                x, middle, "o", color="white", markeredgecolor=colour, markersize=5,
                label=f"{kind}es" if kind == "bias" else f"{kind}s", zorder=3,
            )  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        *zip(*{t: (h, t) for h, t in zip(handles, labels, strict=True)}.values(), strict=True)
    )
    axes.set(yscale="log", ylabel="|d²L/dw²|", xticks=range(len(layers)), xticklabels=layers)
    entries = sum(tensor.numel() for tensor in curvature.values())
    axes.set_title(
        f"AlexNet on digits ({accuracy:.0%} right): {entries:,} exact second derivatives",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    model, data = trained()
    right = (model(data.inputs).argmax(1) == data.targets).float().mean().item()
    h = hessian.diagonal(model, nn.functional.cross_entropy, data.pair)
    matplotlib.rcParams.update({"svg.hashsalt": "cblr", "font.size": 10})
    draw(h, right).savefig(PICTURE, metadata={"Date": None})
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in h):
        both = [h[f"{layer}.{kind}"].abs().median().item() for kind in ("weight", "bias")]
        print(layer, *(f"{value:.1e}" for value in both))
