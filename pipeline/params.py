"""params.yaml -> `Params`, strict and typed; the only reader of the file.

All errors are reported at once: key, value, what is allowed. There are no defaults: the file alone
defines an experiment, and its comments say what each value means. It is read with the parser DVC
uses, so both see the same values (`1e-4` is a number, `on` is text). YAML is a larger language than
a parameter file needs: aliases, other encodings and huge files are refused, each with one line.
"""

import difflib
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import AliasToken

from melodac.config import Section
from melodac.errors import ConfigError
from melodac.training.config import OverfitConfig, TrainConfig

MAX_SIZE_BYTES = 65_536


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: If the file is missing, too large, not UTF-8, not YAML or not a mapping.
    """
    text = _read_text(path)
    try:
        # nested aliases can expand a small file to gigabytes
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


Delay = str | Annotated[list[NonNegativeInt], Field(min_length=1)]


class IngestParams(Section):
    """Choice of the files that become tracks, and their split."""

    source: Annotated[str, Field(min_length=1)]
    min_duration_s: PositiveFloat
    max_duration_s: PositiveFloat
    file_timeout_s: PositiveFloat
    file_memory_mb: Annotated[int, Field(ge=64)]
    require_tags: list[Annotated[str, Field(min_length=1)]]
    skip_tags: list[Annotated[str, Field(min_length=1)]]
    group_by: list[Literal["group", "album", "artist"]]
    near_duplicate_similarity: Annotated[float, Field(ge=0.0, le=1.0)]
    validation_frac: Annotated[float, Field(gt=0.0, lt=0.5)]
    test_frac: Annotated[float, Field(gt=0.0, lt=0.5)]
    min_validation_s: NonNegativeFloat
    split_seed: NonNegativeInt

    @model_validator(mode="after")
    def _durations_are_ordered(self) -> "IngestParams":
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(
                f"min_duration_s ({self.min_duration_s}) must be below "
                f"max_duration_s ({self.max_duration_s})"
            )
        return self


class NormalizeParams(Section):
    """Level, length and channels of the audio that the codec is given."""

    target_lufs: Annotated[float, Field(ge=-40.0, le=-6.0)]
    max_gain_db: Annotated[float, Field(ge=0.0, le=60.0)]
    peak_ceiling_dbtp: Annotated[float, Field(ge=-12.0, le=0.0)]
    trim_below_dbfs: Annotated[float, Field(ge=-120.0, le=-20.0)]
    keep_silence_s: NonNegativeFloat
    channels: Literal["mono", "stereo", "keep"]


class CodecParams(Section):
    """Choice of the codec."""

    weights: Literal["bundled", "44khz"]


class EncodeParams(Section):
    """Layout of the token store."""

    frames_per_shard: Annotated[int, Field(ge=4096, multiple_of=4096)]
    stereo: Literal["left_right", "mid_side", "both"]


class IndexParams(Section):
    """Cropping of tracks into windows; no other section decides it."""

    window_frames: Annotated[int, Field(ge=16, le=16384)]
    min_track_frames: PositiveInt
    offsets: Literal["random", "fixed"]
    align: Literal["none", "bar"]


class TrainParams(TrainConfig):
    """Model, delay pattern and training data; the trainer's own keys are in `TrainConfig`."""

    delay: Delay
    layout: Literal["concatenated", "interleaved", "mid_side"]
    size: str
    embedding: Literal["codec", "learned"]
    """Embedding and output head: built from the codec's code vectors, or learned from scratch."""

    def trainer_config(self) -> TrainConfig:
        """Select the trainer's own keys, without those that build the model and the pattern."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


class EvaluateParams(Section):
    """Settings for measuring the checkpoint."""

    windows_per_batch: PositiveInt
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)]
    clips: Annotated[int, Field(ge=2, le=1000)]
    clip_s: Annotated[float, Field(ge=1.5, le=60.0)]
    prefix_s: Annotated[float, Field(gt=0.0, le=60.0)]
    temperature: NonNegativeFloat
    top_k: NonNegativeInt
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]


class DemosParams(Section):
    """Number, length and sampling settings of the clips on the listening page."""

    tracks: PositiveInt
    duration_s: Annotated[float, Field(gt=0.0, le=600.0)]
    prefix_s: Annotated[float, Field(gt=0.0, le=60.0)]
    temperatures: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    top_k: NonNegativeInt
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    guidance: NonNegativeFloat

    @model_validator(mode="after")
    def _prefix_leaves_room(self) -> "DemosParams":
        if self.prefix_s >= self.duration_s:
            raise ValueError(
                f"prefix_s ({self.prefix_s}) must be below duration_s ({self.duration_s})"
            )
        return self


class RuntimeParams(Section):
    """Machine settings; no stage depends on this section, because no result changes with it."""

    device: Literal["auto", "cpu", "cuda"]
    workers: NonNegativeInt
    processes: PositiveInt
    sharding: Literal["ddp", "fsdp"]
    threads: NonNegativeInt
    wandb: Literal["off", "offline", "online"]


class Params(Section):
    """Contents of params.yaml, one field per section."""

    ingest: IngestParams
    normalize: NormalizeParams
    codec: CodecParams
    encode: EncodeParams
    index: IndexParams
    overfit: OverfitConfig
    train: TrainParams
    evaluate: EvaluateParams
    demos: DemosParams
    runtime: RuntimeParams

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> "Params":
        is_cut = self.runtime.processes > 1 and self.runtime.sharding == "fsdp"
        if self.train.optimizer == "muon" and is_cut:
            raise ValueError(
                "train.optimizer muon needs whole matrices, runtime.sharding fsdp cuts them: "
                "use ddp or adamw"
            )
        return self

    @model_validator(mode="after")
    def _context_fits_the_windows(self) -> "Params":
        longest = max((frames for _, frames in self.train.context), default=0)
        if longest > self.index.window_frames:
            raise ValueError(
                f"train.context has a stage of {longest} frames, index.window_frames is "
                f"{self.index.window_frames}: shorten the stage (or set context to [] for windows "
                "of one length) or lengthen the windows"
            )
        return self

    @model_validator(mode="after")
    def _guidance_has_a_condition(self) -> "Params":
        if self.demos.guidance != 1.0 and self.train.condition == "none":
            raise ValueError(
                f"demos.guidance is {self.demos.guidance}, but train.condition is none: a model "
                "that reads nothing cannot be guided, set it to 1 or train with tags"
            )
        return self


def load_params(path: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        ConfigError: With one line for each wrong key.
    """
    raw = read_yaml(path)
    try:
        # JSON mode, since strict Python mode would reject YAML's lists for tuples
        return Params.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            lines = [f"{path}: {_explain(details)}" for details in error.errors()]
            raise ConfigError("\n".join(lines)) from error
        raise ConfigError(f"{path}: holds a value that JSON cannot express: {error}") from error


def hash_params(params: Params) -> str:
    """Hash an experiment to twelve hex digits, without `runtime`, which changes no result."""
    text = json.dumps(params.model_dump(mode="json", exclude={"runtime"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _explain(details: ErrorDetails) -> str:
    # pydantic adds the branch of a union, here of `Delay`, to the path of the key
    branches = ("str", "list[")
    where = tuple(part for part in details["loc"] if not str(part).startswith(branches))
    key = ".".join(str(part) for part in where)
    if details["type"] == "extra_forbidden":
        known = _keys_beside(where)
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{key} = {details['input']!r}: unknown key, {hint}"
    if details["type"] == "missing":
        return f"{key}: missing, every key must be given"
    message = details["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = details["input"]
    if not key:
        return message
    return f"{key}: {message}" if isinstance(given, dict) else f"{key} = {given!r}: {message}"


def _keys_beside(where: tuple[Any, ...]) -> list[str]:
    section: Any = Params
    for part in where[:-1]:
        annotation = section.model_fields[part].annotation
        options = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        section = next(option for option in options if _is_section(option))
    return list(section.model_fields)


def _is_section(annotation: Any) -> bool:  # noqa: ANN401  an annotation may be anything
    return typing.get_origin(annotation) is None and issubclass(annotation, BaseModel)
