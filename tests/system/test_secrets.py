"""What is hidden of a URI, and that nothing of it is left anywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from secret_uris import MARK, secret_uris

from distsgd.system.secrets import HIDDEN, holds_secret, is_redacted, redacted, redacted_text, scrubbed


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:secret@host:5432/db", "postgresql+psycopg2://***@host:5432/db"),
        ("postgresql://me:secret@/db", "postgresql://***@/db"),
        ("postgresql:///db?user=me&password=secret", "postgresql:///db?***"),
        ("postgresql:///me:secret", "postgresql:///***"),
        ("postgresql+psycopg2://me:secret/db", "postgresql+psycopg2://***"),
        ("http://me:secret", "http://***"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://host/db?user=me@corp&password=secret", "postgresql://***"),
        ("mysql://me:p@ss/w#rd@host/db", "mysql://***"),
        ("mysql://me:p@ss/word@host/db", "mysql://***@host/db"),
        ("https://token@host/path", "https://***@host/path"),
        ("https://me:secret@host/path?token=secret#secret", "https://***@host/path?***"),
        ("token:x@host", "***"),
        ("token://@host", "***"),
        ("ftp://host/x", "ftp://host/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////home/me@corp/mlflow.db", "sqlite:////home/me@corp/mlflow.db"),
        ("sqlite+pysqlcipher://:secret@/mlflow.db", "sqlite+pysqlcipher://***@/mlflow.db"),
        ("sqlite:///mlflow.db?key=secret", "sqlite:///mlflow.db?***"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown):
    assert redacted(uri) == shown
    assert holds_secret(uri) == (uri != shown)
    assert is_redacted(shown) == (uri != shown)


@given(secret_uris())
def test_nothing_of_a_secret_is_shown(uri):
    assert MARK not in redacted(uri)
    assert holds_secret(uri)
    assert is_redacted(redacted(uri))
    assert redacted(redacted(uri)) == redacted(uri)


@given(secret_uris(), st.text(alphabet="ab:' ", max_size=9), st.text(alphabet="ab:' ", max_size=9))
def test_nothing_of_a_secret_is_left_in_a_text_that_quotes_the_uri(uri, before, after):
    assume(re.match("[A-Za-z][A-Za-z0-9+.-]*:/", uri))  # without a scheme, nobody could know where it begins
    assert MARK not in redacted_text(repr(f"{before} {uri}{after}"))
    assert MARK not in scrubbed(f"{before}{uri}{after}", uri)


def test_parts_of_a_uri_in_an_error_are_hidden_as_they_stand_and_decoded():
    uri = "postgresql://alice:p%40ss%20word@host/db?sslpassword=other%2Bone"
    text = 'login of "alice" by "p@ss word" (p%40ss%20word) or "other+one" failed on host'
    assert scrubbed(text, uri) == f'login of "{HIDDEN}" by "{HIDDEN}" ({HIDDEN}) or "{HIDDEN}" failed on host'
    assert scrubbed(text, "postgresql://host/db") == text
