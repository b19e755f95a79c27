"""One worker per GPU, by compose.yaml."""

from __future__ import annotations

import re
from typing import Any

import yaml
from dockerfile import ROOT, chain, environment, read_stages

from rbee_service.options import Options, parse_options

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "compose.yaml").read_text(encoding="utf-8")
)["services"]
IMAGE = environment(chain(read_stages(ROOT / "Dockerfile.gpu"), "worker"))


def filled(text: str) -> str:
    """Put a value where the file demands a variable."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", r"the-\1", text)


def options(service: dict[str, Any]) -> Options:
    given = {name: filled(value) for name, value in service["environment"].items()}
    return parse_options([filled(word) for word in service["command"]], IMAGE | given)


def test_each_worker_has_a_gpu_a_port_and_a_name_of_its_own() -> None:
    assert len(SERVICES) > 1
    gpus, ports = [], []
    for service in SERVICES.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        (gpu,) = device["device_ids"]
        gpus.append(gpu)
        (mapping,) = service["ports"]
        address, outside, inside = mapping.split(":")
        assert address == "127.0.0.1"
        assert int(inside) == options(service).port
        ports.append(outside)
    for values in (gpus, ports, [options(service).worker_id for service in SERVICES.values()]):
        assert len(set(values)) == len(SERVICES)


def test_each_worker_serves_with_a_token_from_its_only_device() -> None:
    for service in SERVICES.values():
        chosen = options(service)
        assert (chosen.backend, chosen.device) == ("cuda", 0)
        assert chosen.token is not None
        assert chosen.host == "0.0.0.0"
        assert chosen.model.as_posix() == "/artifacts/the-MODEL"
        assert "./artifacts:/artifacts:ro" in service["volumes"]
        assert ":?" in service["environment"]["LLORCH_API_TOKEN"]


def test_docker_waits_longer_than_the_worker() -> None:
    for service in SERVICES.values():
        assert options(service).grace < float(service["stop_grace_period"].removesuffix("s"))


def test_the_image_is_built_here_and_keeps_its_health_check() -> None:
    for service in SERVICES.values():
        build = service["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        assert "healthcheck" not in service
        assert "target" not in build
