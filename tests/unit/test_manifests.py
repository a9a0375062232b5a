"""The files under `k8s/`: schema for every supported release, the restricted profile, and what the sidecar promises."""

from __future__ import annotations

import copy
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
MANIFESTS = sorted(path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml")
RELEASES = [v for v in map(major_minor, all_versions()) if tuple(map(int, v.split("."))) >= (1, 29)]
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip

Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def the(kind: str) -> Json:
    [found] = [document for document in documents(K8S / "sidecar.yaml") if document["kind"] == kind]
    return found


def pod_spec() -> Json:
    return the("Deployment")["spec"]["template"]["spec"]


def sidecar() -> Json:
    [found] = [container for container in pod_spec()["initContainers"] if container["name"] == "outrider"]
    return found


def containers(spec: Json) -> list[Json]:
    return spec.get("initContainers", []) + spec.get("containers", [])


def pod_specs() -> Iterator[Json]:
    for path in MANIFESTS:
        for document in documents(path):
            match document:
                case {"spec": {"template": {"spec": spec}}}:
                    yield spec
                case {"kind": "Pod", "spec": spec}:
                    yield spec


def faults(spec: Json) -> list[str]:
    """Everything in which a pod spec falls short of the restricted profile and of our own rules, as sentences."""
    found = []
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= RESTRICTED_VOLUMES:
            found.append(f"volume {volume['name']} is a {kinds}")
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            found.append(f"volume {volume['name']} has no size limit")
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        found.append("the pod shares a namespace with the node")
    for container in containers(spec):
        found += [f"{container['name']}: {fault}" for fault in container_faults(container)]
    return found


def container_faults(container: Json) -> Iterator[str]:
    wanted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    context = container.get("securityContext", {})
    for key, value in wanted.items():
        if context.get(key) != value:
            yield f"{key} is not {value}"
    for key in ("runAsUser", "runAsGroup"):
        if not isinstance(context.get(key), int) or context[key] < 1:
            yield f"{key} is not a number above 0"
    if context.get("privileged") or context.get("procMount") or "sysctls" in context:
        yield "privileged"
    if set(container.get("resources", {}).get("requests", {})) < {"cpu", "memory"}:
        yield "no requests for cpu and memory: autoscaling breaks"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe in container and "exec" in container[probe]:
            yield f"{probe} starts a process"
        if "host" in container.get(probe, {}).get("httpGet", {}):
            yield f"{probe} names a host"
    for port in container.get("ports", []):
        if "hostPort" in port or len(port.get("name", "")) > 15:
            yield f"port {port}"
    if not re.search(r":[^/]+$", container["image"]) or container["image"].endswith(":latest"):
        yield f"image {container['image']} is not pinned"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(K8S)))
def test_manifest_passes_the_strict_schema(path: Path, release: str) -> None:
    # An unknown kind raises SchemaNotFoundError here; the command line tool would only warn.
    for document in documents(path):
        kubernetes_validate.validate(document, release, strict=True)


def test_releases_reach_from_the_oldest_supported_to_the_newest_known() -> None:
    assert RELEASES[0] == "1.29"
    assert tuple(map(int, RELEASES[-1].split("."))) >= (1, 37)


def test_schema_check_has_teeth() -> None:
    misspelt = the("Deployment")
    misspelt["spec"]["template"]["spec"]["initContainers"][0]["restartPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, RELEASES[-1], strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Sidecar"}, RELEASES[-1], strict=True)


def test_every_pod_is_restricted_clean() -> None:
    specs = list(pod_specs())
    assert specs
    assert [fault for spec in specs for fault in faults(spec)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("securityContext", "runAsNonRoot"), None),
        (("securityContext", "runAsUser"), "nonroot"),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "runAsGroup"), None),
        (("securityContext", "allowPrivilegeEscalation"), True),
        (("securityContext", "readOnlyRootFilesystem"), None),
        (("securityContext", "capabilities"), {"drop": []}),
        (("securityContext", "capabilities"), {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("securityContext", "privileged"), True),
        (("resources", "requests"), {"cpu": "50m"}),
        (("startupProbe", "httpGet"), {"path": "/startupz", "port": 8712, "host": "127.0.0.1"}),
        (("livenessProbe", "exec"), {"command": ["true"]}),
        (("ports",), [{"name": "outrider-admin-port", "containerPort": 8712}]),
        (("ports",), [{"name": "admin", "containerPort": 8712, "hostPort": 8712}]),
        (("image",), "outrider"),
        (("image",), "outrider:latest"),
    ],
)
def test_restricted_check_has_teeth(path: tuple[str, ...], value: object) -> None:
    spec = copy.deepcopy(pod_spec())
    place = spec["initContainers"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(faults(spec)) == 1


def test_sidecar_is_native_first_and_without_pre_stop() -> None:
    assert pod_spec()["initContainers"][0]["name"] == "outrider"
    assert sidecar()["restartPolicy"] == "Always"
    assert "lifecycle" not in sidecar()
    assert "readinessProbe" not in sidecar()
    assert sidecar()["securityContext"]["runAsUser"] == 65532
    assert sidecar()["securityContext"]["runAsGroup"] == 65532


def test_sidecar_declares_the_admin_port_only() -> None:
    env = {entry["name"]: entry.get("value") for entry in sidecar()["env"]}
    assert env["OUTRIDER_LISTEN_DATA_PORT"] == "8711"
    assert env["OUTRIDER_LISTEN_ADMIN_PORT"] == "8712"
    assert [(port["name"], port["containerPort"]) for port in sidecar()["ports"]] == [("outrider-admin", 8712)]
    for probe, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez")):
        assert sidecar()[probe]["httpGet"] == {"path": path, "port": "outrider-admin"}


def test_app_reaches_the_data_port_by_address() -> None:
    # Not "localhost": Node 17 and later resolve it to ::1 first.
    env = {entry["name"]: entry.get("value") for entry in pod_spec()["containers"][0]["env"]}
    assert env["OPENAI_BASE_URL"] == "http://127.0.0.1:8711/v1"
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8711"
    assert env["OPENAI_API_KEY"]
    assert env["ANTHROPIC_API_KEY"]


def test_mounts_meet_volumes_and_the_config_is_a_directory() -> None:
    volumes = {volume["name"]: volume for volume in pod_spec()["volumes"]}
    mounts = {mount["name"]: mount for mount in sidecar()["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert not any("subPath" in mount for mount in mounts.values())
    assert volumes["outrider-config"]["configMap"]["name"] == the("ConfigMap")["metadata"]["name"]
    assert f"--config={mounts['outrider-config']['mountPath']}/config.yaml" in sidecar()["args"]
    data = mounts["outrider-data"]["mountPath"]
    env = {entry["name"]: entry.get("value") for entry in sidecar()["env"]}
    assert env["OUTRIDER_STORE_PATH"].startswith(f"{data}/")
    assert env["TMPDIR"] == data
    annotations = the("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] == "outrider-data"


def test_selector_matches_the_pod() -> None:
    spec = the("Deployment")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_key_files_of_the_config_are_those_of_the_volume() -> None:
    config = yaml.safe_load(the("ConfigMap")["data"]["config.yaml"])
    [keys] = [volume for volume in pod_spec()["volumes"] if volume["name"] == "outrider-keys"]
    mount = next(mount for mount in sidecar()["volumeMounts"] if mount["name"] == "outrider-keys")["mountPath"]
    mounted = {
        f"{mount}/{item['path']}" for source in keys["projected"]["sources"] for item in source["secret"]["items"]
    }
    assert {provider["api_key"]["file"] for provider in config["providers"].values()} == mounted
    # A missing Secret disables one provider; it must not keep the pod from starting.
    assert all(source["secret"]["optional"] for source in keys["projected"]["sources"])


@pytest.mark.skipif(importlib.util.find_spec("proxy.cli") is None, reason="no command line to ask")
def test_config_passes_outrider_check(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(the("ConfigMap")["data"]["config.yaml"])
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (INSTRUCTION, rest), comments dropped and continued lines joined."""
    lines = [line for line in (K8S / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.split("\n") if line)
    ]


def last_stage() -> list[tuple[str, str]]:
    everything = instructions()
    return everything[max(i for i, (word, _) in enumerate(everything) if word == "FROM") :]


def test_image_runs_as_a_number_and_as_process_one() -> None:
    stage = dict(last_stage())
    assert stage["USER"] == "65532:65532"
    assert stage["ENTRYPOINT"] == '["outrider"]'
    assert stage["CMD"] == '["run"]'
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert last_stage().index(("USER", "65532:65532")) > max(
        i for i, (word, _) in enumerate(last_stage()) if word in {"RUN", "COPY"}
    )


def test_image_installs_by_hash_and_leaves_the_tools_behind() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    installs = [part.strip() for run in runs for part in run.split("&&") if re.search(r"\bpip\b.* install ", part)]
    assert len(installs) == 3
    for command in installs:
        words = shlex.split(command)
        assert "--require-hashes" in words or {"--no-deps", "--no-index"} <= set(words), command
    assert any("compileall" in run and "unchecked-hash" in run for run in runs)
    [clearing] = [rest for word, rest in last_stage() if word == "RUN"]
    assert "pip uninstall" in clearing
    assert not re.search(r"apt|gcc|pip install", clearing)
    assert [rest for word, rest in last_stage() if word == "COPY"] == ["--from=build /opt/outrider /opt/outrider"]


def test_image_copies_only_what_exists() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert copied
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert sidecar()["image"] == f"outrider:{version}"
    assert f"outrider:{version}" in (K8S / "Dockerfile").read_text()
