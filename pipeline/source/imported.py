"""Format of an import, the folder that `melodac import` writes and `ingest.source` can name.

    import.json   store header and one entry per track; written last, so its presence means complete
    tokens/       the token store
    report.csv    one line for every file that was seen

`ingest` splits the tracks; `handover.py` passes the store on.
"""

from pathlib import Path

from pydantic import PositiveInt, ValidationError

from melodac.config import Section
from melodac.errors import StoreCorruptError
from melodac.tokens.store.header import StoreHeader

RECORD = "import.json"
STORE = "tokens"
REPORT = "report.csv"


class ImportedTrack(Section):
    """Track of an import."""

    id: str
    """First 16 hex digits of the file's sha256."""
    path: str
    """Path of the file, relative to the folder of codes."""
    codes_sha256: str
    num_frames: PositiveInt
    group: str
    licence: str
    tags: dict[str, str]
    """Tags, including `imported_...` for what the file claims about itself."""
    tag_sources: dict[str, str]


class ImportRecord(Section):
    """Contents of an import."""

    header: StoreHeader
    store_fingerprint: str
    tracks: tuple[ImportedTrack, ...]


def find_import(source: Path) -> ImportRecord | None:
    """Read the record of an import; None for a folder of music.

    Raises:
        StoreCorruptError: If the record is damaged.
    """
    path = source / RECORD
    if not path.is_file():
        return None
    try:
        return ImportRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StoreCorruptError(f"{path} is damaged ({error}): import the codes again") from error
