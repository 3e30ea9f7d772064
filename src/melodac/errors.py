"""Every error the library raises on purpose.

A domain error also inherits the builtin a caller would expect, so both `except MelodacError` and
`except ValueError` work. Messages say what is wrong, what was given, what is allowed, what to do.

MelodacError
+-- ConfigError(ValueError)
+-- AudioError
|   +-- UnreadableAudioError(OSError)
|   +-- AudioTooLongError(ValueError)
|   +-- LeakError(ValueError)
+-- CodecError
|   +-- CodecWeightsError(ValueError)
+-- TokenError
|   +-- DelayError(ValueError)
|   +-- StoreCorruptError(OSError)
|   +-- StoreVersionError(ValueError)
|   +-- EmptySplitError(ValueError)
+-- ModelError
|   +-- CacheOverflowError(IndexError)
+-- TrainingError
|   +-- CheckpointCorruptError(OSError)
|   +-- CheckpointMismatchError(ValueError)
|   +-- DivergenceError(ArithmeticError)
|   +-- NonFiniteError(ArithmeticError)
|   +-- AuditError
|   +-- CollapseError
|   +-- OutOfMemoryError(MemoryError)
+-- SamplingError(ValueError)
+-- EvaluationError(ValueError)
+-- OutputError(OSError)
"""


class MelodacError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(MelodacError, ValueError):
    """A parameter is unknown, of the wrong type or out of range."""


class AudioError(MelodacError):
    """Audio cannot be used."""


class UnreadableAudioError(AudioError, OSError):
    """A file is not audio that can be decoded to its end."""


class AudioTooLongError(AudioError, ValueError):
    """A file decodes to more seconds than the given cap."""


class LeakError(AudioError, ValueError):
    """Recordings that belong together are in two splits."""


class CodecError(MelodacError):
    """The codec was given something it cannot encode or decode."""


class CodecWeightsError(CodecError, ValueError):
    """Codec weights are missing, damaged or not those that were pinned."""


class TokenError(MelodacError):
    """Token data breaks its contract."""


class DelayError(TokenError, ValueError):
    """A delay pattern is unknown or does not fit the codebooks."""


class StoreCorruptError(TokenError, OSError):
    """A token store differs from its manifest."""


class StoreVersionError(TokenError, ValueError):
    """A token store was written by another format version."""


class EmptySplitError(TokenError, ValueError):
    """A split that is needed holds no track."""


class ModelError(MelodacError):
    """The model was asked for something it cannot do."""


class CacheOverflowError(ModelError, IndexError):
    """A KV cache is full."""


class TrainingError(MelodacError):
    """Training cannot continue."""


class CheckpointCorruptError(TrainingError, OSError):
    """A checkpoint's bytes differ from its manifest."""


class CheckpointMismatchError(TrainingError, ValueError):
    """A checkpoint belongs to another model, data set or pattern."""


class DivergenceError(TrainingError, ArithmeticError):
    """Updates are refused repeatedly, and rollbacks are used up or impossible."""


class NonFiniteError(TrainingError, ArithmeticError):
    """A loss or gradient is not finite."""


class AuditError(TrainingError):
    """A fresh model is not fit to be trained."""


class CollapseError(TrainingError):
    """The model's output has collapsed, and the params ask for the run to end."""


class OutOfMemoryError(TrainingError, MemoryError):
    """A run needs more memory than there is."""


class SamplingError(MelodacError, ValueError):
    """Sampling settings are invalid."""


class EvaluationError(MelodacError, ValueError):
    """A score cannot be measured from the given data."""


class OutputError(MelodacError, OSError):
    """A result cannot be written."""
