"""Laws of interchange: codes come in and leave unchanged, provenance stays, nothing is guessed."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melodac.errors import ConfigError, OutputError, StoreCorruptError, TokenError
from melodac.token_files.code_files import (
    encode_npq,
    make_npq,
    read_code_file,
    read_npq,
    write_code_file,
)
from melodac.tokens.store.reader import open_store
from pipeline import paths
from pipeline.commands.export_codes import export_codes
from pipeline.commands.import_codes import import_codes
from pipeline.records import read_catalogue, read_normalized
from pipeline.source.handover import HANDED_ON
from pipeline.source.imported import find_import
from pipeline.stages import encode, index, ingest, normalize
from tests.pipeline.music_folder import params_for, write_track

RATE_HZ = 44100 / 512
NUM_FILES = 6


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")


def random_codes(seed, num_columns=9, num_frames=200):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 1024, (num_columns, num_frames), dtype=np.uint16)


def write_npq(path, seed, num_side=0, *, num_columns=9, rate_hz=RATE_HZ, num_frames=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = random_codes(seed, num_columns, num_frames)
    path.write_bytes(
        encode_npq(make_npq(codes, num_side=num_side, rate_hz=rate_hz, codebook_size=1024))
    )


@pytest.fixture
def codes_folder(tmp_path):
    folder = tmp_path / "codes"
    for seed in range(NUM_FILES):
        write_npq(folder / f"song{seed}.npq", seed, rate_hz=86.1 + seed / 100)
    return folder


def run_upstream(imported, **sections):
    sections.setdefault("codec", {"weights": "bundled"})
    given = {"validation_frac": 0.2, "test_frac": 0.2, "min_validation_s": 0.0}
    params = params_for(
        imported, ingest=given, index={"window_frames": 32, "min_track_frames": 32}, **sections
    )
    for stage in (ingest, normalize, encode):
        stage.run(params)
    return params


def test_imported_codes_reach_the_index_and_leave_as_the_bytes_that_came(codes_folder, tmp_path):
    found = import_codes(codes_folder, tmp_path / "imported", "bundled")
    assert [verdict.verdict for verdict in found.verdicts] == ["accept"] * NUM_FILES
    index.run(run_upstream(tmp_path / "imported"))
    store = open_store(paths.TOKENS)
    assert (store.header.channels, store.header.codebooks) == (("mono",), (9,))
    assert store.header.target_lufs is None
    for seed, track in enumerate(read_catalogue(paths.CATALOGUE)):
        assert np.array_equal(store.codes(track.id), random_codes(seed))
        assert track.tags["imported_format"] == "npq"
        assert track.tags["imported_sha256"][:16] == track.id
        assert track.loudness_lufs is None
    written = export_codes(tmp_path / "out", "npq")
    for path in written:
        assert path.read_bytes() == (codes_folder / path.name).read_bytes()


@pytest.mark.parametrize("form", ["npy", "pt"])
def test_stereo_tables_come_back_with_their_metadata(tmp_path, form):
    folder, told = tmp_path / "codes", {}
    folder.mkdir()
    for seed in range(NUM_FILES):
        write_code_file(folder / f"{seed}.{form}", random_codes(seed, num_columns=18))
        told[f"{seed}.{form}"] = {
            "text": "slow piano", "sr": 44100, "channels": 2, "length": 200, "bpm": 90 + seed,
            "group": f"album {seed}",
        }  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(told))
    import_codes(folder, tmp_path / "imported", "bundled")
    run_upstream(tmp_path / "imported")
    tracks = read_catalogue(paths.CATALOGUE)
    assert open_store(paths.TOKENS).header.channels == ("left", "right")
    assert tracks[2].tags["description"] == "slow piano"
    assert tracks[2].tags["tempo_bpm"] == "92"
    assert tracks[2].tag_sources["tempo_bpm"] == "metadata.json"
    written = export_codes(tmp_path / "out", form)
    for seed, path in enumerate(written):
        assert np.array_equal(read_code_file(path), random_codes(seed, num_columns=18))
    again = import_codes(tmp_path / "out", tmp_path / "again", "bundled")
    assert again.record.tracks[2].tags["tempo_bpm"] == "92"
    assert open_store(tmp_path / "again" / "tokens").header == open_store(paths.TOKENS).header


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_side=st.integers(0, 9), num_frames=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_a_store_holds_the_codes_of_its_files(tmp_path_factory, num_side, num_frames):
    folder = tmp_path_factory.mktemp("codes")
    for seed, count in enumerate(num_frames):
        write_npq(
            folder / f"{seed}.npq", seed, num_side, num_columns=9 + num_side, num_frames=count
        )
    found = import_codes(folder, folder / "imported", "bundled")
    store = open_store(folder / "imported" / "tokens")
    assert store.header.codebooks == ((9, num_side) if num_side else (9,))
    for track in found.record.tracks:
        assert np.array_equal(store.codes(track.id), read_npq(folder / track.path).codes)


def test_bad_files_get_a_line_each_and_the_good_ones_are_imported(codes_folder, tmp_path):
    whole = (codes_folder / "song0.npq").read_bytes()
    (codes_folder / "cut.npq").write_bytes(whole[:-1])
    (codes_folder / "copy.npq").write_bytes(whole)
    (codes_folder / "link.npq").symlink_to(codes_folder / "song1.npq")
    write_npq(codes_folder / "other_rate.npq", 99, rate_hz=50.0)
    write_code_file(codes_folder / "turned.npy", random_codes(7).T)
    (codes_folder / "notes.txt").write_text("no codes")
    found = import_codes(codes_folder, tmp_path / "imported", "44khz")
    report = (tmp_path / "imported" / "report.csv").read_text()
    assert len(found.record.tracks) == NUM_FILES
    for line in (
        'cut.npq,reject,"has 3656 bytes',
        "song0.npq,reject,same codes as: copy.npq",
        "link.npq,reject,a link or no regular file",
        '"50.000 frames per second, the codec has 86.133"',
        "a table holds frames by codebooks, not codebooks by frames",
    ):
        assert line in report
    assert str(tmp_path) not in report


def test_short_files_may_be_a_frame_off_their_rate(tmp_path):
    write_npq(tmp_path / "codes" / "a.npq", 0, rate_hz=87.0, num_frames=87)  # one second
    import_codes(tmp_path / "codes", tmp_path / "imported", "44khz")
    write_npq(tmp_path / "long" / "a.npq", 0, rate_hz=87.0, num_frames=1000)
    with pytest.raises(TokenError, match=r"none of 1 files can be used.*87\.000 frames per second"):
        import_codes(tmp_path / "long", tmp_path / "other", "44khz")


def test_files_that_do_not_go_together_are_refused(codes_folder, tmp_path):
    write_npq(codes_folder / "stereo.npq", 50, 4, num_columns=13)
    with pytest.raises(
        TokenError,
        match=r"stereo\.npq holds mid, side with 9, 4 codebooks; song0\.npq holds mono .*apart",
    ):
        import_codes(codes_folder, tmp_path / "imported", "bundled")
    assert find_import(tmp_path / "imported") is None


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"sr": 48000}, "metadata.json says 48000 Hz"),
        ({"length": 150}, "200 frames, metadata.json says length 150"),
    ],
)
def test_metadata_of_another_file_is_refused(tmp_path, told, message):
    (tmp_path / "codes").mkdir()
    write_code_file(tmp_path / "codes" / "a.npy", random_codes(0))
    (tmp_path / "codes" / "metadata.json").write_text(json.dumps({"a.npy": told}))
    with pytest.raises(TokenError, match=message):
        import_codes(tmp_path / "codes", tmp_path / "imported", "bundled")


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": 1}', "[" * 100_000])
def test_metadata_that_is_none_is_refused(codes_folder, tmp_path, text):
    (codes_folder / "metadata.json").write_text(text)
    with pytest.raises(TokenError, match=r"metadata\.json"):
        import_codes(codes_folder, tmp_path / "imported", "bundled")


def test_a_folder_without_codes_is_refused(tmp_path):
    with pytest.raises(TokenError, match="no file of codes"):
        import_codes(tmp_path, tmp_path / "imported", "bundled")


def test_another_folder_is_never_replaced(codes_folder, tmp_path):
    with pytest.raises(OutputError, match="is no import"):
        import_codes(codes_folder, codes_folder, "bundled")
    import_codes(codes_folder, tmp_path / "imported", "bundled")
    import_codes(codes_folder, tmp_path / "imported", "bundled")  # its own is


def test_codes_of_another_codec_are_refused(codes_folder, tmp_path):
    import_codes(codes_folder, tmp_path / "imported", "44khz")
    with pytest.raises(ConfigError, match="the imported codes are of codec '44khz'"):
        run_upstream(tmp_path / "imported")


def test_codes_of_an_unknown_codec_reach_the_store(codes_folder, tmp_path):
    found = import_codes(codes_folder, tmp_path / "imported", "someone's")
    assert found.record.header.weights_sha256 == "unknown"
    run_upstream(tmp_path / "imported")


def test_music_after_an_import_leaves_nothing_of_it(codes_folder, tmp_path):
    import_codes(codes_folder, tmp_path / "imported", "bundled")
    run_upstream(tmp_path / "imported")
    for seed in range(3):
        write_track(tmp_path / "music" / f"{seed}.wav", seed)
    params = params_for(tmp_path / "music", ingest={"min_validation_s": 0.0})
    for stage in (ingest, normalize):
        stage.run(params)
    assert not HANDED_ON.exists()
    assert len(read_normalized(paths.NORMALIZED_TABLE)) == 3


def test_tags_filter_imported_codes_too(codes_folder, tmp_path):
    told = {f"song{n}.npq": {"genre": "speech" if n == 0 else "jazz"} for n in range(NUM_FILES)}
    (codes_folder / "metadata.json").write_text(json.dumps(told))
    import_codes(codes_folder, tmp_path / "imported", "bundled")
    given = {"skip_tags": ["genre=speech"], "min_validation_s": 0.0}
    ingest.run(params_for(tmp_path / "imported", ingest=given))
    kept = [track.path for track in read_catalogue(paths.CATALOGUE)]
    assert kept == [f"song{n}.npq" for n in range(1, NUM_FILES)]
    assert "song0.npq,reject,tags: has" in paths.INGEST_REPORT.read_text()


def test_a_store_that_was_changed_after_the_import_is_refused(codes_folder, tmp_path):
    import_codes(codes_folder, tmp_path / "imported", "bundled")
    record = tmp_path / "imported" / "import.json"
    changed = json.loads(record.read_text()) | {"store_fingerprint": "0" * 64}
    record.write_text(json.dumps(changed))
    with pytest.raises(StoreCorruptError, match="is not what was imported"):
        run_upstream(tmp_path / "imported")
    assert not HANDED_ON.exists()


def test_a_format_that_cannot_hold_the_channels_is_refused(tmp_path):
    for seed in range(NUM_FILES):
        write_npq(tmp_path / "codes" / f"{seed}.npq", seed, 4, num_columns=13)
    import_codes(tmp_path / "codes", tmp_path / "imported", "bundled")
    run_upstream(tmp_path / "imported")
    with pytest.raises(ConfigError, match=r"holds mid, side, which \.npy files cannot: export npq"):
        export_codes(tmp_path / "out", "npy")
    assert len(export_codes(tmp_path / "out", "npq")) == NUM_FILES


def test_two_imports_are_the_same_bytes(codes_folder, tmp_path):
    written = []
    for name in ("one", "two"):
        import_codes(codes_folder, tmp_path / name, "bundled")
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        written.append([(f.relative_to(tmp_path / name), f.read_bytes()) for f in files])
    assert written[0] == written[1]
