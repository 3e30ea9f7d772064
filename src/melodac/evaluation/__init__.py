"""How well a model predicts: likelihood and n-gram baselines."""
