"""All metadata of a folder of music: the one order in which sources bind.

    nearest table > tables above it > song.json > song_prompt.txt > song.txt > embedded tags

What was written for this collection binds more than what came along with a file. Any module above
may import it.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain
from pathlib import Path

from melodac.audio.metadata.embedded import EmbeddedTags
from melodac.audio.metadata.fields import Statement
from melodac.audio.metadata.merge import TrackMetadata, merge
from melodac.audio.metadata.side_car import read_side_cars
from melodac.audio.metadata.tables import read_tables

EMBEDDED = "embedded"


def collect_metadata(
    root: Path,
    *,
    tables: Sequence[str],
    side_cars: Iterable[tuple[str, str]],
    embedded: Mapping[str, EmbeddedTags],
    known_paths: Set[str],
) -> tuple[dict[str, TrackMetadata], list[str]]:
    """What is known of each audio file, by path, and the problems met, one line each; both sorted.

    Args:
        root: The folder of music; all paths are relative to it.
        tables: Every metadata.csv and metadata.jsonl.
        side_cars: Path of each side-car and of the audio file it belongs to.
        embedded: What `read_embedded` found in each audio file.
        known_paths: Audio files found, whether they can be used or not.
    """
    in_tables, table_problems = read_tables(root, tables, known_paths)
    beside, side_car_problems = read_side_cars(root, side_cars)
    inside = {path: [Statement(EMBEDDED, tags.fields)] for path, tags in embedded.items()}
    inside_problems = [
        f"{path}: embedded tags: {tags.problem}" for path, tags in embedded.items() if tags.problem
    ]
    merged = {
        path: merge(chain(*(said.get(path, []) for said in (in_tables, beside, inside))))
        for path in sorted({*in_tables, *beside, *inside})
    }
    return merged, sorted([*table_problems, *side_car_problems, *inside_problems])
