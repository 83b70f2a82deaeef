"""A vision transformer of Hugging Face, a DataLoader of dicts, and a picture of its curvature."""

import torch
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification

import hessian

torch.manual_seed(0)
config = ViTConfig(
    image_size=8, patch_size=4, num_channels=1, num_labels=10, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=32,
)  # fmt: skip
model = ViTForImageClassification(config).eval()
rows = [{"pixel_values": torch.randn(1, 8, 8), "labels": i % 10} for i in range(16)]

h = hessian.diagonal(model, hessian.on_logits(), DataLoader(rows, batch_size=8))

print(h)
print(h.to_frame()[["parameter", "entries", "trace", "median_radius"]])
h.plot().figure.savefig("curvature.svg")
