from __future__ import annotations

import errno
import pickle

import pytest

from rsn2.data.errors import BrokenDataError, DataError, DataFolderError, MissingDataError, reading, writing


@pytest.mark.parametrize("error", [BrokenDataError("a/b", "1 row", "2"), MissingDataError("a"), DataFolderError("b")])
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and isinstance(again, DataError)


def test_standard_bases():
    for kind, base in (
        (MissingDataError, FileNotFoundError),
        (BrokenDataError, ValueError),
        (DataFolderError, OSError),
    ):
        assert issubclass(kind, base)


def test_our_own_errors_pass_unchanged(tmp_path):
    for guard in (reading, writing):
        with pytest.raises(MissingDataError, match="^as it was$"), guard(tmp_path):
            raise MissingDataError("as it was")


def test_other_errors_are_not_swallowed(tmp_path):
    with pytest.raises(OSError, match="a decoder's") as caught, reading(tmp_path):
        raise OSError("a decoder's")
    assert not isinstance(caught.value, DataError)
    with pytest.raises(InterruptedError) as interrupted, writing(tmp_path):
        raise InterruptedError(errno.EINTR, "interrupted")
    assert not isinstance(interrupted.value, DataError)


@pytest.mark.parametrize(
    "code, reason",
    [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_writing_names_folder_reason_and_remedy(tmp_path, code, reason):
    with pytest.raises(DataFolderError, match=rf"{tmp_path}: cannot be written: .*{reason}.*--data-dir or RSN2_DATA"):
        with writing(tmp_path):
            raise OSError(code, "as the system says it")
