"""docs/deploy.md is true: the manifest fits together and its command line is understood; the code runs."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from code_blocks import blocks_of

from experts.llm.endpoints import read_models
from router_rl.cli import find_command
from router_rl.cli.parsing import build_parser, names_given, normalised
from router_rl.serving.guard import OPEN
from router_rl.serving.listen import GRACE_S

PAGE = "docs/deploy.md"


def objects() -> dict[str, dict[str, Any]]:
    """Return the objects of the manifest by kind."""
    (block,) = (block for block in blocks_of(PAGE) if block.language == "yaml" and "apiVersion" in block.text)
    return {each["kind"]: each for each in yaml.safe_load_all(block.text)}


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of a command line, by the program's own parser."""
    command, rest = find_command(words[0]), normalised(words[1:])
    parser = build_parser(words[0], command, names_given(rest), rest)
    return parser.parse_args(rest).as_dict()


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return objects()["Deployment"]["spec"]["template"]


def test_the_labels_and_ports_of_the_manifest_fit_together(pod: dict[str, Any]) -> None:
    manifest = objects()
    assert set(manifest) == {"Secret", "ConfigMap", "Deployment", "Service"}
    labels = pod["metadata"]["labels"]
    assert manifest["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifest["Service"]["spec"]["selector"] == labels
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert [each["targetPort"] for each in manifest["Service"]["spec"]["ports"]] == [port["name"]]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container[name]["httpGet"]
        assert get["port"] == port["name"]
        assert get["path"] in OPEN  # a probe has no key
    assert port["containerPort"] == parsed([*container["command"][1:], *container["args"]])["port"]


def test_the_command_line_of_the_manifest_is_understood(pod: dict[str, Any], tmp_path: Any) -> None:
    manifest, (container,) = objects(), pod["spec"]["containers"]
    assert container["command"][0] == "train-router"
    options = parsed([*container["command"][1:], *container["args"]])
    secret = manifest["Secret"]["stringData"]
    assert options["host"] == "0.0.0.0"
    assert options["log"].startswith("postgresql://")
    assert {options["api_key_env"], options["hash_key_env"], "PGPASSWORD"} <= set(secret)
    assert {each["secretRef"]["name"] for each in container["envFrom"]} == {
        manifest["Secret"]["metadata"]["name"]
    }
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert all(each["readOnly"] for each in mounts.values())
    assert {str(PurePosixPath(str(options[name])).parent) for name in ("router", "models")} == set(mounts)
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod["spec"]["volumes"]}
    models = tmp_path / "models.yaml"
    models.write_text(manifest["ConfigMap"]["data"][PurePosixPath(str(options["models"])).name])
    endpoints = read_models(models).endpoints
    assert {each.api_key_env for each in endpoints if each.api_key_env} <= set(secret)
    written = str(container) + manifest["ConfigMap"]["data"]["models.yaml"]
    assert not [name for name, value in secret.items() if value in written]  # keys are in the Secret only


def test_the_grace_period_covers_what_a_server_takes_to_end(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    before = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= before + GRACE_S + 5 + 5  # the log, and some slack


def test_the_commands_are_understood() -> None:
    lines = [line for block in blocks_of(PAGE) if block.language == "sh" for line in block.text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "train-router"
        assert parsed(words)["log"].startswith("postgresql://")


def test_the_page_names_the_real_limits() -> None:
    text = " ".join(re.sub(r"```.*?```", "", _page(), flags=re.DOTALL).split())
    assert f"for up to {GRACE_S} seconds" in text


def _page() -> str:
    from code_blocks import ROOT

    return (ROOT / PAGE).read_text(encoding="utf-8")
