"""`melodac export`: the token store as files for other programs.

NPQ for mono, and for mid and side; a table of frames by codebooks for mono, and for left and right.
A track imported from NPQ is exported as the same bytes: its header fields are kept in its tags.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt16

from melodac.errors import ConfigError, OutputError
from melodac.token_files.code_files import NpqTokens, encode_npq, make_npq, write_code_file
from melodac.tokens.store.header import Channel, StoreHeader
from melodac.tokens.store.reader import TokenStore, open_store
from pipeline import paths
from pipeline.commands.import_codes import IMPORTED, METADATA
from pipeline.records import TrackRecord, read_catalogue, write_json

Format = Literal["npq", "npy", "pt"]
_CHANNELS: Mapping[str, tuple[tuple[Channel, ...], ...]] = {
    "npq": (("mono",), ("mid", "side")),
    "npy": (("mono",), ("left", "right")),
    "pt": (("mono",), ("left", "right")),
}


def export_codes(output: Path, form: Format) -> list[Path]:
    """Write every track of the catalogue as a file named after its recording.

    A format that cannot hold the channels of the store raises `ConfigError`.

    Args:
        output: Folder to write; empty or new.
        form: Suffix of the files.

    Raises:
        OutputError: If the folder is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise OutputError(f"{output} is not empty: choose another folder")
    store = open_store(paths.TOKENS)
    channels = _choose_channels(store.header, form)
    written: list[Path] = []
    told: dict[str, dict[str, Any]] = {}
    for track in read_catalogue(paths.CATALOGUE):
        if track.id not in store.track_ids:
            continue
        path = _name(output, track, form, taken=written)
        path.parent.mkdir(parents=True, exist_ok=True)
        codes = _columns(store, track.id, channels)
        if form == "npq":
            path.write_bytes(encode_npq(_as_npq(codes, track, store.header)))
        else:
            write_code_file(path, codes)
        told[path.relative_to(output).as_posix()] = _describe(track, codes, len(channels))
        written.append(path)
    write_json(output / METADATA, told)
    return written


def _choose_channels(header: StoreHeader, form: Format) -> tuple[Channel, ...]:
    for channels in _CHANNELS[form]:
        if set(channels) <= set(header.channels):
            return channels
    others = [
        name
        for name, sets in _CHANNELS.items()
        if any(set(s) <= set(header.channels) for s in sets)
    ]
    raise ConfigError(
        f"the store holds {', '.join(header.channels)}, which .{form} files cannot: export "
        f"{' or '.join(others)}"
    )


def _columns(
    store: TokenStore, track_id: str, channels: tuple[Channel, ...]
) -> UInt16[np.ndarray, "K T"]:
    codes = store.codes(track_id)
    return np.concatenate([codes[store.header.columns(channel)] for channel in channels])


def _name(output: Path, track: TrackRecord, form: Format, *, taken: list[Path]) -> Path:
    """Choose a path below `output` that mirrors the recording's path below the source folder."""
    path = (output / track.path).with_suffix(f".{form}")
    if not path.resolve().is_relative_to(output.resolve()):
        raise OutputError(f"{track.path!r} lies outside its folder: it is not exported")
    # song.wav and song.flac in one folder would both become song.npq
    return path.with_name(f"{path.stem}-{track.id}.{form}") if path in taken else path


def _as_npq(codes: UInt16[np.ndarray, "K T"], track: TrackRecord, header: StoreHeader) -> NpqTokens:
    num_side = header.codebooks[header.channels.index("side")] if "side" in header.channels else 0
    said = {
        key.removeprefix(IMPORTED): value
        for key, value in track.tags.items()
        if key.startswith(IMPORTED)
    }
    if said.get("format") != "npq":
        return make_npq(
            codes,
            num_side=num_side,
            rate_hz=header.sample_rate_hz / header.hop,
            codebook_size=header.codebook_size,
        )
    return NpqTokens(
        magic="NPQ1" if said["magic"] == "NPQ1" else "NPQ2",
        codes=codes,
        num_side=num_side,
        rate_hz=float(said["rate_hz"]),
        bitrate_kbps=float(said["bitrate_kbps"]),
        vocabulary_sizes=tuple(map(int, said["vocabulary"].split(","))),
        width=int(said["width"]),
    )


def _describe(
    track: TrackRecord, codes: UInt16[np.ndarray, "K T"], num_channels: int
) -> dict[str, Any]:
    known = {key: value for key, value in track.tags.items() if not key.startswith(IMPORTED)}
    text = known.pop("description", "")
    return {
        **known,
        **({"text": text} if text else {}),
        **({"licence": track.licence} if track.licence else {}),
        "group": track.group,
        "sr": track.sample_rate_hz,
        "channels": num_channels,
        "length": codes.shape[1],
    }
