"""From logits to codes: temperature, truncation and the autoregressive loop."""
