"""Training of codecs: crops, losses, discriminators, quantiser care, resumable loop, export.

Nothing at run time of the pipeline needs this package; `pipeline/commands/codec.py` drives it.
"""
