"""A download is whole and the pinned one, or nothing stays."""

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from melodac.codec import load as download
from melodac.codec.load import official_weights
from melodac.errors import CodecWeightsError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path):
    """A file that a URL serves."""
    path = tmp_path / "served" / "weights.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "dac" / "weights.pth"


def test_the_pinned_file_is_kept(served, cache):
    assert official_weights(cache, served.as_uri(), SHA256) == cache
    assert cache.read_bytes() == CONTENT
    assert list(cache.parent.iterdir()) == [cache]


def test_a_file_that_is_there_is_not_fetched_again(cache):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"mine")
    assert official_weights(cache, "http://127.0.0.1:9/nothing", SHA256).read_bytes() == b"mine"


@pytest.mark.parametrize("content", [CONTENT[:-1], b"<html>not found</html>", b""])
def test_another_file_is_refused_and_not_kept(served, cache, content):
    served.write_bytes(content)
    with pytest.raises(CodecWeightsError, match="is pinned"):
        official_weights(cache, served.as_uri(), SHA256)
    assert list(cache.parent.iterdir()) == []


def test_an_endless_file_is_cut_off(served, cache, monkeypatch):
    monkeypatch.setattr(download, "NUM_BYTES", 100)
    with pytest.raises(CodecWeightsError, match="more than the 100 bytes"):
        official_weights(cache, served.as_uri(), SHA256)
    assert list(cache.parent.iterdir()) == []


def test_no_connection_is_one_clear_error(cache):
    with pytest.raises(CodecWeightsError, match="use codec"):
        official_weights(cache, "http://127.0.0.1:9/weights.pth", SHA256)
    assert not cache.exists()


def test_a_broken_connection_leaves_nothing(cache):
    class Breaks(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Breaks)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with pytest.raises(CodecWeightsError):
        official_weights(cache, f"http://127.0.0.1:{server.server_port}/weights.pth", SHA256)
    thread.join()
    server.server_close()
    assert list(cache.parent.iterdir()) == []


def test_an_unwritable_cache_is_one_clear_error(served, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CodecWeightsError, match="cannot fetch"):
        official_weights(blocked / "weights.pth", served.as_uri(), SHA256)
