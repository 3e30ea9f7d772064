"""Paths that the pipeline reads or writes, defined once, relative to the root of the checkout.

DVC starts stages at that root, also in the copies in which queued experiments run, so relative
paths keep two experiments apart. A contract test compares this file with dvc.yaml.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DATA = Path("data")

CATALOGUE = DATA / "ingest" / "catalogue.parquet"
INGEST_REPORT = DATA / "ingest" / "report.csv"
INGEST_GROUPS = DATA / "ingest" / "groups.csv"

NORMALIZED = DATA / "normalize"
NORMALIZED_AUDIO = NORMALIZED / "audio"
NORMALIZED_TABLE = NORMALIZED / "normalized.parquet"

TOKENS = DATA / "encode" / "tokens"

INDEX = DATA / "index" / "index.json"
BASELINES = DATA / "index" / "baselines.json"
INDEX_TAGS = DATA / "index" / "tags.json"
INDEX_TRACKS = DATA / "index" / "tracks.csv"

OVERFIT_REPORT = DATA / "overfit" / "report.json"

CHECKPOINT = DATA / "train" / "checkpoint"
TRAIN_LOG = DATA / "train" / "log.jsonl"
HISTORY = DATA / "train" / "history.csv"
TRAIN_CURVES = DATA / "train" / "curves"
TRAIN_DOCTOR = DATA / "train" / "doctor.json"

EVALUATION = DATA / "evaluate" / "evaluation.json"
CODEBOOK_TABLE = DATA / "evaluate" / "codebooks.csv"
EAR_TABLE = DATA / "evaluate" / "ear.csv"

DEMOS = DATA / "demos"

METRICS = DATA / "metrics"


def metrics_of(stage: str) -> Path:
    """Return the file of a stage's numbers for `dvc metrics`."""
    return METRICS / f"{stage}.json"


def project_root() -> Path:
    """Return the main checkout, even inside the temporary copy of an experiment."""
    return Path(os.environ.get("DVC_ROOT", "."))


def scratch(purpose: str) -> Path:
    """Return a folder for state that must survive a failed or killed stage; DVC keeps it."""
    return project_root() / ".scratch" / purpose


def resolve_source(source: str) -> Path:
    """Return the user's folder: absolute, or relative to here, or else to the main checkout."""
    given = Path(source).expanduser()
    if given.is_absolute() or given.exists():
        return given
    return project_root() / given
