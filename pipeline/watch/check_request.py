"""What can be known to fail before DVC starts: wrong parameters and a missing source folder.

Each stage checks its parameters again; here it is for an answer within a second, before any work.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from melodac.errors import ConfigError, UnreadableAudioError
from pipeline import paths
from pipeline.params import Params, load_params, read_yaml
from pipeline.source.listing import find_folder, find_unhashable


def check(arguments: Sequence[str]) -> None:
    """Check params.yaml as the `-S` options in `arguments` would change it.

    A wrong value or option is a `ConfigError` with one line for each; a source that is no folder,
    or one that DVC cannot hash, is an `UnreadableAudioError`.
    """
    for overrides in _expand_sweeps(list(_overrides(arguments))):
        params = _load_changed(overrides)
        _check_source(params.ingest.source)


def _check_source(given: str) -> None:
    source = paths.resolve_source(given)
    if not source.exists() or not (folder := find_folder(source)).is_dir():
        raise UnreadableAudioError(
            f"ingest.source = {given!r}: no such folder ({source.absolute()}), "
            "give a folder of music, absolute or relative to the checkout"
        )
    if source == folder and (odd := find_unhashable(folder)):
        raise UnreadableAudioError(
            f"ingest.source = {given!r}: DVC cannot read some of its names ({odd}): run "
            f"`melodac scan {given}` and give the listing that it writes"
        )


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """What the `-S` options say about params.yaml, in all the ways they can be written."""
    rest = iter(arguments)
    for argument in rest:
        if argument in {"-S", "--set-param"}:
            given = next(rest, "")
        elif argument.startswith("--set-param="):
            given = argument.removeprefix("--set-param=")
        elif argument.startswith("-S"):
            given = argument.removeprefix("-S")
        else:
            continue
        file, colon, override = given.partition(":")
        if not colon or "=" in file:
            yield given
        elif file == paths.PARAMS.name:
            yield override


def _expand_sweeps(overrides: list[str]) -> list[list[str]]:
    """`a=1,2` means two experiments; each is checked."""
    if not overrides:
        return [[]]
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    name = paths.PARAMS.name
    try:
        return [list(sweep[name]) for sweep in get_hydra_sweeps({name: overrides})]
    except (DvcException, HydraException) as error:
        raise ConfigError(f"-S {' '.join(overrides)}: {_first_line(error)}") from error


def _load_changed(overrides: list[str]) -> Params:
    """params.yaml with overrides, applied by the code with which DVC applies them."""
    read_yaml(paths.PARAMS)  # a file that is no YAML is told of in our words
    if not overrides:
        return load_params(paths.PARAMS)
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / paths.PARAMS.name
        changed.write_bytes(paths.PARAMS.read_bytes())
        try:
            apply_overrides(changed, overrides)
            return load_params(changed)
        except DvcException as error:
            reason = _first_line(error.__cause__ or error)
            raise ConfigError(f"-S {' '.join(overrides)}: {reason}") from error
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{changed}: ", f"{paths.PARAMS}: ")) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
