"""Tracking URIs with a secret in every place where one may stand, given in every way; it must be found nowhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile.generator import Generator, small_run
from hostile.sandbox import Ending, Problem, Sandbox

MARKS = ("s3cretMARK", "hunter2MARK")
"""The two parts of a secret: whoever cuts a URI at the wrong character shows one of them."""

BETWEEN = (
    "",
    "@",
    ":",
    "/",
    "//",
    "?",
    "#",
    "&",
    "=",
    "%40",
    "%",
    "+",
    " ",
    "'",
    '"',
    "\\",
    ";",
    ",",
    "[",
    "é",
    "@@",
    "@/",
    ":@",
    "$",
    "`",
    "***",
)

SCHEMES = (
    "http",
    "https",
    "HTTP",
    "postgresql",
    "postgresql+psycopg2",
    "mysql",
    "mysql+pymysql",
    "mssql+pyodbc",
    "sqlite",
    "databricks",
    "databricks-uc",
    "file",
    "s3",
    "ftp",
    "x",
)

USERS = ("", "me:{}@", "{}@", ":{}@", "{}:@", "me:{}:x@", "me%3A{}@", "me:{}@proxy:1@")

HOSTS = (
    "127.0.0.1:9",
    "127.0.0.1:9",
    "127.0.0.1",
    "[::1]:9",
    "localhost:9",
    "",
    "127.0.0.1:99999",
    "127.0.0.1:x",
    "a b",
    "[",
)

PATHS = ("", "/", "/mlflow", "/a/b/", "/../x")

QUERIES = (
    "",
    "",
    "?password={}",
    "?user=me&password={}",
    "?token={}",
    "?access_token={}",
    "?sslpassword={}",
    "?API_KEY={}",
    "?x=1&pwd={}",
    "?secret={}&y",
    "?passwd={}",
    "?host=127.0.0.1&user=me&password={}#x",
)

SLASHES = ("://", "://", "://", ":/", ":///")

WAYS = (
    "set",
    "set",
    "toml",
    "environment",
    "sync",
    "required",
    "list",
    "table",
    "section",
    "other key",
    "no equals sign",
    "data",
)


@dataclass(frozen=True)
class Case:
    """A URI with a secret in it, and the way in which it is given."""

    uri: str
    way: str


def cases() -> SearchStrategy[Case]:
    """URIs."""
    secret = st.sampled_from(BETWEEN).map(lambda between: between.join(MARKS))
    uri = st.builds(
        lambda scheme, slashes, user, host, path, query, secret: "".join(
            (scheme, slashes, user.format(secret), host, path, query.format(secret))
        ),
        st.sampled_from(SCHEMES),
        st.sampled_from(SLASHES),
        st.sampled_from(USERS),
        st.sampled_from(HOSTS),
        st.sampled_from(PATHS),
        st.sampled_from(QUERIES),
        secret,
    ).filter(_holds_a_secret)
    return st.builds(Case, uri, st.sampled_from(WAYS))


def _holds_a_secret(uri: str) -> bool:
    """Return whether there is a secret in it; the path of an SQLite file is none."""
    return MARKS[0] in uri and not uri.startswith(("sqlite:///", "file:"))


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Train with the URI as the store, and resume, and tell the store afterwards; then look for the secret."""
    before, problems = sandbox.files(), []
    if case.way == "toml":
        (sandbox.work / "given.toml").write_text(f"[tracking]\nuri = {json.dumps(case.uri)}\n")
    environment = {"MLFLOW_TRACKING_URI": case.uri} if case.way == "environment" else {}
    for arguments in _commands(case):
        ending = sandbox.invoke(*arguments, environment=environment, threads_may_stay=True)
        problems += [*ending.problems, *_shown(ending, arguments)]
    problems += sandbox.holding(*MARKS, given=frozenset({"given.toml"}))
    if any(problem.kind == "traceback" for problem in problems):
        return problems
    return problems + [p for p in sandbox.left_behind(before) if "given.toml" not in p.text and "mlruns" not in p.text]


def _shown(ending: Ending, arguments: list[str]) -> list[Problem]:
    """Return a problem for a stream that holds the secret."""
    streams = {"standard output": ending.out, "standard error": ending.err, "a descriptor": ending.stray}
    marks = {form for mark in MARKS for form in (mark, quote(mark, safe=""))}
    return [
        Problem("secret", f"{mark!r} is on {name} of {arguments[0]}: {text[max(0, text.index(mark) - 300) :][:600]!r}")
        for name, text in streams.items()
        for mark in sorted(marks)
        if mark in text
    ]


def _commands(case: Case) -> list[list[str]]:
    """Return the commands that are given the URI, one after the other."""
    run = [*small_run(tracking__enabled="true", tracking__timeout_s=0.2)]
    again = ["train", "--resume", "--run-dir=run"]
    given = f"--set=tracking.uri={case.uri}"
    return {
        "set": [[*run, given], [*again, given], ["sync", "run"]],
        "toml": [[*run, "given.toml"], again],
        "environment": [run, again, ["sync", "run"]],
        "sync": [small_run(), ["sync", "run", f"--uri={case.uri}"]],
        "required": [[*run, given, "--set=tracking.required=true"]] if case.uri.startswith("http") else [[*run, given]],
        "list": [[*run, f"--set=tracking.uri=[{json.dumps(case.uri)}]"]],
        "table": [[*run, f"--set=tracking.uri={{a = {json.dumps(case.uri)}}}"]],
        "section": [[*run, f"--set=tracking={case.uri}"]],
        "other key": [[*run, f"--set=tracking.url={case.uri}"]],
        "no equals sign": [[*run, f"--set=tracking.uri:{case.uri}"]],
        "data": [[*small_run(), f"--data={case.uri}"]],
    }[case.way]


GENERATOR = Generator(cases, check, share=0.5)
