"""`SamplingSettings`: how bold a draw is."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from melodac.config import Section


class SamplingSettings(Section):
    """Temperature, then top-k, then top-p, in this order."""

    temperature: NonNegativeFloat
    """Divides the logits; 0 always takes the likeliest code."""
    top_k: NonNegativeInt
    """Codes left to draw from, the likeliest ones; 0 leaves all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of probability left to draw from, the likeliest codes first; 1 leaves all."""
