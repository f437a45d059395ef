"""Errors name the argument, carry an errno, and speak verbs' words."""

import errno

import pytest

from unpinned.verbs import CompletionError, wc_status_to_str
from unpinned.verbs import enums as e
from unpinned.verbs.errors import ArgumentError, closed, coded, integer, refused, seconds, status_errno, unsupported


def test_argument_errors_name_the_argument_and_are_two_kinds_at_once():
    with pytest.raises(ArgumentError, match="^.*wr_id: 7 is not between 0 and 3") as caught:
        integer("wr_id", 7, 0, 3)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)
    assert caught.value.errno == errno.EINVAL


def test_a_wrong_type_is_a_type_error_that_names_the_argument():
    with pytest.raises(TypeError, match="^length: an integer is needed, not str"):
        integer("length", "7", 0, 10)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (0, 0.0), (1.5, 1.5), (-1, 0.0), (float("inf"), None), (1 << 60, None), (float("-inf"), 0.0)],
)
def test_a_waiting_time(value, expected):
    assert seconds("timeout", value) == expected


def test_a_waiting_time_that_is_none_is_named():
    with pytest.raises(TypeError, match="^timeout: seconds are needed, not str"):
        seconds("timeout", "1")
    with pytest.raises(TypeError, match="^timeout: seconds are needed, not list"):
        seconds("timeout", [1])
    with pytest.raises(ArgumentError, match="timeout: nan is no time"):
        seconds("timeout", float("nan"))


def test_numpy_integers_are_integers():
    import numpy as np

    assert integer("n", np.int32(3), 0, 5) == 3


def test_what_is_not_supported_says_what():
    error = unsupported("qp_type UD")
    assert error.errno == errno.EOPNOTSUPP and "qp_type UD" in str(error)


def test_closed_is_enodev():
    assert closed("queue pair").errno == errno.ENODEV


@pytest.mark.parametrize(
    ("status", "text", "number"),
    [
        (e.IBV_WC_SUCCESS, "success", 0),
        (e.IBV_WC_REM_ACCESS_ERR, "remote access error", errno.EACCES),
        (e.IBV_WC_WR_FLUSH_ERR, "Work Request Flushed Error", errno.ECANCELED),
        (e.IBV_WC_RETRY_EXC_ERR, "transport retry counter exceeded", errno.ETIMEDOUT),
        (e.IBV_WC_TM_RNDV_INCOMPLETE, "TM software rendezvous", errno.EIO),
        (99, "unknown", errno.EIO),
        (-1, "unknown", errno.EIO),
    ],
)
def test_every_status_has_its_text_and_errno(status, text, number):
    assert wc_status_to_str(status) == text
    assert status_errno(status) == number


def test_a_completion_error_says_which_request_and_why():
    error = CompletionError(e.IBV_WC_REM_ACCESS_ERR, 17, "reading")
    assert (error.errno, error.status, error.wr_id) == (errno.EACCES, e.IBV_WC_REM_ACCESS_ERR, 17)
    assert "reading: remote access error" in str(error)


ERRORS = [
    ArgumentError("a", "b"), CompletionError(e.IBV_WC_REM_ACCESS_ERR), unsupported("UD"), closed("queue"), refused(errno.ENOMEM, "full")
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_pyverbs_error_code_is_the_errno(error):
    assert error.error_code == error.errno != 0


def test_errors_from_below_have_it_too_and_keep_their_class():
    @coded
    def opened(path):
        return open(path)

    with pytest.raises(FileNotFoundError) as caught:
        opened("/nothing/here")
    assert caught.value.error_code == caught.value.errno == errno.ENOENT and caught.value.filename == "/nothing/here"
    assert opened.__name__ == "opened"
