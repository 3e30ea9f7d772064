"""Every path the pipeline reads or writes, relative to the root of the checkout.

DVC starts stages at that root, also in the copies that queued experiments run in: relative paths
keep two experiments apart. A contract test compares this file with dvc.yaml.
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
    """Return the path of a stage's metrics for `dvc metrics`."""
    return METRICS / f"{stage}.json"


def project_root() -> Path:
    """Return the main checkout, also inside the temporary copy that an experiment runs in."""
    return Path(os.environ.get("DVC_ROOT", "."))


def scratch(purpose: str) -> Path:
    """Return a folder for state that outlives a failed or killed stage, which DVC never deletes."""
    return project_root() / ".scratch" / purpose


def resolve_source(source: str) -> Path:
    """Resolve the user's folder: absolute, relative to here, or else to the main checkout."""
    given = Path(source).expanduser()
    if given.is_absolute() or given.exists():
        return given
    return project_root() / given
