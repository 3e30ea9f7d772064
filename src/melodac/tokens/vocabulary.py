"""Values that a cell of a token sequence may hold.

A cell holds a code of the codec or one of two special tokens. The specials lie above the codes, so
a head that emits `CODEBOOK_SIZE` logits cannot sample one.
"""

CODEBOOK_SIZE = 1024
"""Codes of one codebook: 0 .. 1023."""

BOS = 1024
"""Cell that lies before the first frame of its window."""

PAD = 1025
"""Cell past the end of the track, or one that a flat pattern leaves empty."""

VOCABULARY_SIZE = 1026
"""Codes and special tokens of one codebook."""

FILL = 65535
"""Value of a missing chunk of a store; on disk only, never given to a model."""
