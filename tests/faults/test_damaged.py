"""What is no whole music is refused at once, in one line, with the reason."""

import pytest

from melodac.audio.examine import DurationLimits, Rejection, examine_file
from melodac.files import hash_file
from tests.faults.damaged import ALL

LIMITS = DurationLimits(1.0, 60.0)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_a_part_is_never_taken_for_the_whole(tmp_path, case):
    path = tmp_path / case.name.rpartition("/")[2]
    case.make(path)
    before = path.read_bytes()
    answer = examine_file(path, LIMITS, hash_file(path))
    assert isinstance(answer, Rejection)
    assert answer.reason.startswith(case.reason)
    assert "\n" not in answer.reason
    assert str(tmp_path) not in answer.reason
    assert path.read_bytes() == before
