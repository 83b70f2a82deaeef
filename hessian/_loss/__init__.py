"""The loss's second derivative in the model's outputs, and what it factors into."""
