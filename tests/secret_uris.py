"""URIs that hold a secret, wherever in a URI one may stand."""

from __future__ import annotations

from hypothesis import strategies as st

MARK = "s3cr3t"
"""A text that is in every part of a URI that is secret, and nowhere else."""


@st.composite
def secret_uris(draw: st.DrawFn) -> str:
    """Draw a URI of any form, right or wrong, whose user name, password or query holds MARK."""
    odd = st.text(alphabet="ab1%:/@?#&= .+*[]é'\"", max_size=6)
    secret = st.builds("{}{}{}".format, odd, st.just(MARK), odd)
    host = draw(st.sampled_from(["", "host", "host:5000", "[::1]:5000", "h-1.example.org"]))
    path = draw(st.sampled_from(["", "/", "/db", "/a/b"]))
    scheme = draw(st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql", "mssql", "ftp"]))
    login = draw(
        st.one_of(
            st.builds("{}@".format, secret),
            st.builds("me:{}@".format, secret),
            st.builds("{}:x@".format, secret),
            st.just(""),
        )
    )
    key = draw(st.sampled_from(["password", "user", "token", "x"]))
    query = f"?{key}={draw(secret)}" if not login or draw(st.booleans()) else ""
    return f"{draw(st.sampled_from([f'{scheme}://', f'{scheme}:/', '']))}{login}{host}{path}{query}"
