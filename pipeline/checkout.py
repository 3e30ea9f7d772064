"""Where the checkout is, so that `melodac` works from any folder inside it."""

from pathlib import Path

from melodac.errors import ConfigError
from pipeline.dag import DVC_FILE
from pipeline.paths import PARAMS


def find_checkout(start: Path) -> Path:
    """The closest folder, from `start` upwards, that holds the pipeline.

    Raises:
        ConfigError: If there is none.
    """
    for folder in (start, *start.parents):
        if (folder / DVC_FILE).is_file() and (folder / PARAMS).is_file():
            return folder
    raise ConfigError(
        f"{start}: no {DVC_FILE} with a {PARAMS} here or in any folder above, "
        "cd into a checkout of melodac"
    )
