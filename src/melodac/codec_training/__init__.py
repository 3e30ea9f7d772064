"""Training of the bundled codec: crops, losses, discriminators, quantizer fit, resumable loop.

Only `pipeline/commands/codec.py` uses this package; no stage of the pipeline needs it.
"""
