"""docker-compose.yml: accepted by docker compose where that is installed, and closed to strangers."""

from __future__ import annotations

import ipaddress
import re
import shutil
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


class Loader(yaml.SafeLoader):
    """Reads `!override`, which replaces a list instead of adding to it."""


Loader.add_constructor("!override", Loader.construct_sequence)
SECURE = yaml.load((REPOSITORY / "docker-compose.secure.yml").read_text(encoding="utf-8"), Loader)
RAY = ("head", "worker")
EXAMPLES_OF_SECRETS = re.compile(r"pass(word)?\s*[=:]\s*\w|://[^/\s]*:[^/\s]*@", re.IGNORECASE)

RAY_DRAIN_S = 30
"""Seconds in which a Ray node that is told to end finishes what it runs."""


def compose_problem() -> str | None:
    """Return why `docker compose` cannot be asked, or None."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False)
    return None if version.returncode == 0 else "this docker has no compose plugin"


def size(text: str) -> int:
    """Return bytes of `4g` and the like, of a variable's default too."""
    text = re.sub(r"\$\{\w+:-(.*)\}", r"\1", text)
    return int(text[:-1]) * {"k": 2**10, "m": 2**20, "g": 2**30}[text[-1]]


@pytest.mark.timeout(60)
def test_docker_compose_accepts_the_file():
    problem = compose_problem()
    if problem:
        pytest.skip(problem)
    command = ["docker", "compose", "--file", "docker-compose.yml", "config", "--quiet"]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_there_are_the_services_that_the_readme_names():
    assert set(SERVICES) == {"head", "worker", "mlflow", "postgres"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_locked_down(name):
    service = SERVICES[name]
    assert service["user"] not in ("", "root", "0")
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["init"] is True
    assert all(published.startswith("127.0.0.1:") for published in service.get("ports", []))
    assert service.get("network_mode") is None


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_limits_and_a_health_check(name):
    service = SERVICES[name]
    assert size(service["shm_size"]) < size(service["mem_limit"])
    assert service["pids_limit"] > 0
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["stop_grace_period"].endswith("s")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_a_command_line_or_an_environment(name):
    service = SERVICES[name]
    words = [*service.get("command", []), *(f"{key}={value}" for key, value in service["environment"].items())]
    for word in words:
        assert not EXAMPLES_OF_SECRETS.search(word.replace("PGPASSWORD=", "")), word


def test_database_is_not_published_and_only_mlflow_reaches_it():
    assert "ports" not in SERVICES["postgres"]
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert COMPOSE["networks"]["database"]["internal"] is True
    assert [name for name in SERVICES if "database" in SERVICES[name]["networks"]] == ["mlflow", "postgres"]


@pytest.mark.parametrize("name", RAY)
def test_ray_demands_a_token_and_has_room_for_its_object_store(name):
    service = SERVICES[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert service["secrets"] == ["ray_token"]
    (store,) = [word for word in service["command"] if word.startswith("--object-store-memory=")]
    assert int(store.partition("=")[2]) <= size(service["shm_size"])
    assert int(service["stop_grace_period"].removesuffix("s")) > RAY_DRAIN_S


def test_mlflow_keeps_artifacts_and_knows_its_names():
    command = SERVICES["mlflow"]["command"][-1]
    assert "--serve-artifacts" in command
    allowed = re.search(r"--allowed-hosts (\S+)", command).group(1).split(",")
    tracking = SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    published = SERVICES["mlflow"]["ports"][0].rpartition(":")[0]
    assert {tracking, published} <= set(allowed)


def test_image_has_the_exact_versions_and_holds_no_secret():
    dockerfile = (REPOSITORY / SERVICES["head"]["build"]["dockerfile"]).read_text(encoding="utf-8")
    assert "pip install -c constraints.txt '.[auth,postgres]'" in dockerfile
    assert re.search("^RUN pip install --no-deps [.]$", dockerfile, re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+$", dockerfile, re.MULTILINE)
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored  # all but what is named
    named = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]}
    assert named == copied
    assert all((REPOSITORY / name).exists() for name in copied)


def test_images_are_pinned_and_our_own_has_our_version():
    images = {service["image"] for service in SERVICES.values()}
    assert f"localhost/distsgd:{version('distsgd')}" in images
    dockerfile = (REPOSITORY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    images |= set(re.findall(r"^FROM (\S+)$", dockerfile, re.MULTILINE))
    assert len(images) == 3
    assert all(re.search(r":\d+\.\d+(\.\d+)?(-\w+)*$", image) for image in images)


def test_links_lead_to_the_published_port():
    default = re.fullmatch(r"\$\{DISTSGD_LINK_URI:-(.*)\}", SERVICES["head"]["environment"]["DISTSGD_LINK_URI"])[1]
    assert default == f"http://{SERVICES['mlflow']['ports'][0].rpartition(':')[0]}"
    assert re.fullmatch(
        r"\$\{DISTSGD_LINK_URI:-https://localhost:5000\}", SECURE["services"]["head"]["environment"]["DISTSGD_LINK_URI"]
    )


def test_the_secure_file_adds_to_the_plain_one_and_its_server_differs_in_login_and_tls_alone():
    assert set(SECURE["services"]) <= set(SERVICES)
    plain, secure = (found["services"]["mlflow"]["command"][-1].split() for found in (COMPOSE, SECURE))
    added = {word for word in secure if word not in plain}
    assert "--app-name" in added
    assert not {word for word in plain if word not in secure} - {'"--timeout-worker-healthcheck=120"'}
    for service in SECURE["services"].values():
        assert "ports" not in service
        for secret in service["secrets"]:
            assert (secret if isinstance(secret, str) else secret["source"]) in SECURE["secrets"]


@pytest.mark.timeout(60)
def test_certificates_and_the_login_are_made_once(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes certificates, is not installed")
    script = tmp_path / "docker" / "make-secrets.sh"
    script.parent.mkdir()
    shutil.copy(REPOSITORY / "docker" / "make-secrets.sh", script)

    def made() -> dict[str, str]:
        subprocess.run(["sh", str(script), "--secure"], check=True, timeout=50)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = made()
    assert set(first) == {*COMPOSE["secrets"], *SECURE["secrets"], "ray_authority_key"}
    assert first["mlflow_password"] in first["mlflow_login"]
    _, *nodes = ipaddress.ip_network(SECURE["networks"]["cluster"]["ipam"]["config"][0]["subnet"]).hosts()
    certificate = str(tmp_path / "secrets" / "ray_node_certificate")
    shown = ["openssl", "x509", "-in", certificate, "-noout", "-ext", "subjectAltName"]
    names = subprocess.run(shown, check=True, timeout=50, capture_output=True, text=True).stdout
    assert set(re.findall(r"IP Address:([\d.]+)", names)) == {"127.0.0.1", *map(str, nodes)}
    assert made() == first


@pytest.mark.timeout(60)
def test_secrets_are_made_once_and_are_closed_to_others(tmp_path):
    script = tmp_path / "docker" / "make-secrets.sh"
    script.parent.mkdir()
    shutil.copy(REPOSITORY / "docker" / "make-secrets.sh", script)

    def made() -> dict[str, str]:
        subprocess.run(["sh", str(script)], check=True, timeout=20)
        folder = tmp_path / "secrets"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
        return {path.name: path.read_text() for path in folder.iterdir()}

    first = made()
    assert set(first) == set(COMPOSE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in first.values())
    assert len(set(first.values())) == len(first)
    assert made() == first
    for name, secret in COMPOSE["secrets"].items():
        assert secret["file"] == f"./secrets/{name}"
    for ignoring in (".gitignore", ".rayignore"):
        assert "/secrets" in (REPOSITORY / ignoring).read_text(encoding="utf-8")
