"""params.yaml as plain data, read with the parser DVC uses, so both see the same values.

YAML is a larger language than a parameter file needs: aliases, other encodings and huge files are
refused here, each with one line.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import AliasToken

from melodac.errors import ConfigError

MAX_SIZE_BYTES = 65_536


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds.

    Raises:
        ConfigError: If the file is missing, too large, not UTF-8, not YAML or not a mapping.
    """
    text = _read_text(path)
    try:
        if any(isinstance(token, AliasToken) for token in YAML(typ="safe", pure=True).scan(text)):
            raise ConfigError(f"{path}: aliases (*name) are not allowed, write the value out")
        loaded = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}: line {line}: {error.problem or error.context}") from error
    except YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"{path}: not readable as YAML: {first_line}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected sections like `train:`, got {type(loaded).__name__}")
    return loaded


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_SIZE_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, at most {MAX_SIZE_BYTES} are allowed")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text (byte {error.start}), save it as UTF-8"
        ) from error
