"""`Section`, the base of every config in the project.

Configs are immutable, strict and refuse unknown keys, so a typo is an error and never a default.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every config: immutable, strict, unknown keys forbidden, NaN and infinity refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
