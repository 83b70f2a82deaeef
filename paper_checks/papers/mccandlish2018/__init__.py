"""McCandlish, Kaplan, Amodei et al. (2018): an empirical model of large-batch training."""
