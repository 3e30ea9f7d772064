"""Training of the bundled codec: audio in memory, losses, quantiser care, resumable loop, export.

Nothing at run time of the pipeline needs this package; `pipeline/codec.py` drives it.
"""
