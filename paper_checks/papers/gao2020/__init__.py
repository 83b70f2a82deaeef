"""Gao & Zhong (2020): large batches and a learning rate from the second derivative."""
