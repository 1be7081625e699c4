"""Which URIs of a store are refused at once, and in which words."""

from __future__ import annotations

import pytest

from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError
from distsgd.tracking import uri as tracking_uri


def resolved(uri: str) -> str:
    return tracking_uri.resolve(TrackingConfig(uri=uri))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://localhost:abc", "a port is a number from 1 to 65535"),
        ("http://localhost:99999", "a port is a number from 1 to 65535"),
        ("https://localhost:0/base", "a port is a number from 1 to 65535"),
        ("http://[::1:5000", "host and port cannot be read"),
        ("postgresql://name:secret@host:port/db", "host and port cannot be read"),
        ("http://name:se#cret@host:5000", "write @ as %40, / as %2F, # as %23"),
        ("http://:5000", "names no host"),
        ("http:///base", "names no host"),
        ("localhost:5000", "no scheme (http://) before them"),
        ("mongodb://name:secret@host", "a scheme, 'mongodb', that MLflow does not know"),
        ("ftp://host", "a scheme, 'ftp', that MLflow does not know"),
        ("name:secret@host", "a scheme that MLflow does not know"),
    ],
)
def test_a_malformed_uri_is_refused_without_its_secrets(uri, words):
    with pytest.raises(ConfigError) as refused:
        resolved(uri)
    message = str(refused.value)
    assert message.startswith("tracking.uri is ")
    assert words in message
    assert "expected sqlite:///mlflow.db, another database's URI" in message
    assert not {"secret", "cret@", "se#"} & set(message.replace("'", " ").split())
    assert "secret" not in message


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://host",
        "http://host:/base",
        "http://[::1]:5000",
        "http://name:secret@host:5000/base",
        "postgresql:///db?host=/tmp",
        "postgresql+psycopg2://name:se/c#ret@host:5432/db",
        "mysql+pymysql://host/db",
        "mssql+pyodbc:///?odbc_connect=x",
        "sqlite:////somewhere/a:b.db",
        "databricks",
        "databricks://profile",
    ],
)
def test_others_are_taken_as_they_are(uri):
    assert resolved(uri) == uri
