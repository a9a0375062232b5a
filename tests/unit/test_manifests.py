"""The files under `k8s/`, as kustomize renders them: schema for every supported release, the restricted profile, and
that all copies of the sidecar are one and agree with the code."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy import cli
from proxy.config.schema import File, scalars
from tests.unit.k8s.rendering import (
    K8S,
    LABEL,
    RELEASES,
    ROOT,
    VARIANTS,
    Json,
    instructions,
    last_stage,
    named,
    rendered,
    template,
    templates,
    the,
    values,
)

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip

CUSTOM = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which no release of Kubernetes knows; k8s/test_monitoring.py has their shapes."""

SINCE = {"MutatingAdmissionPolicy": (1, 36), "MutatingAdmissionPolicyBinding": (1, 36)}
"""The first release that knows a kind in the version that we use; all others are older than what we support."""

WITH_PODS = [variant for variant in VARIANTS if variant == "base" or variant.startswith("examples/")]


def pod_spec() -> Json:
    spec: Json = the("base", "Deployment")["spec"]["template"]["spec"]
    return spec


def sidecar(spec: Json | None = None) -> Json:
    spec = spec or pod_spec()
    return named(containers(spec), "outrider")


def containers(spec: Json) -> list[Json]:
    return spec.get("initContainers", []) + spec.get("containers", [])


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
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_passes_the_strict_schema(variant: str, release: str) -> None:
    # An unknown kind raises SchemaNotFoundError here; the command line tool would only warn.
    for document in rendered(variant):
        kind = document["kind"]
        if kind not in CUSTOM and tuple(map(int, release.split("."))) >= SINCE.get(kind, (0,)):
            kubernetes_validate.validate(document, release, strict=True)


def test_no_variant_is_forgotten() -> None:
    parts = {"component", "readiness"}
    assert {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")} == {*VARIANTS, *parts}
    for part in parts:
        assert yaml.safe_load((K8S / part / "kustomization.yaml").read_text())["kind"] == "Component"
    kinds = {document["kind"] for variant in VARIANTS for document in rendered(variant)}
    assert {"ConfigMap", "Deployment", "Job", "CronJob", "NetworkPolicy", *CUSTOM, *SINCE} <= kinds


def test_releases_reach_from_the_oldest_supported_to_the_newest_known() -> None:
    assert RELEASES[0] == "1.29"
    assert tuple(map(int, RELEASES[-1].split("."))) >= (1, 37)


def test_schema_check_has_teeth() -> None:
    misspelt = the("base", "Deployment")
    misspelt["spec"]["template"]["spec"]["initContainers"][0]["restartPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, RELEASES[-1], strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Sidecar"}, RELEASES[-1], strict=True)


@pytest.mark.parametrize("variant", WITH_PODS)
def test_every_pod_is_restricted_clean(variant: str) -> None:
    found = list(templates(variant))
    assert found
    assert [fault for one in found for fault in faults(one["spec"])] == []


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


# One sidecar in all places --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", WITH_PODS)
def test_every_variant_has_the_sidecar_of_the_base(variant: str) -> None:
    base = the("base", "Deployment")["spec"]["template"]
    for one in templates(variant):
        ours = sidecar(one["spec"])
        # What a variant may add or change: the place of the image, a readiness probe, and what plain mode is about.
        ours["image"] = ours["image"].rsplit("/", 1)[-1]
        ours.pop("readinessProbe", None)
        if variant == "examples/plain":
            ours["env"] = [entry for entry in ours["env"] if not entry["name"].startswith("OUTRIDER_SHUTDOWN_")]
            ours["restartPolicy"] = "Always"
        assert ours == sidecar(base["spec"])
        for volume in base["spec"]["volumes"]:
            assert named(one["spec"]["volumes"], volume["name"]) == volume
        assert one["metadata"]["annotations"].items() >= base["metadata"]["annotations"].items()
        assert one["metadata"]["labels"].items() >= LABEL.items()


def test_sidecar_is_native_first_and_without_pre_stop() -> None:
    for variant in WITH_PODS:
        for one in templates(variant):
            if variant != "examples/plain":
                first = one["spec"]["initContainers"][0]
                assert first["name"] == "outrider"
                assert first["restartPolicy"] == "Always"
                assert "lifecycle" not in first
    assert "readinessProbe" not in sidecar()
    assert sidecar()["securityContext"]["runAsUser"] == 65532
    assert sidecar()["securityContext"]["runAsGroup"] == 65532


def test_plain_mode_serves_while_the_app_drains() -> None:
    [one] = templates("examples/plain")
    ours = one["spec"]["containers"][0]
    assert ours["name"] == "outrider"
    assert "restartPolicy" not in ours
    assert "lifecycle" not in ours
    env = values(ours)
    assert env["OUTRIDER_SHUTDOWN_MODE"] == "plain"
    serving = float(env["OUTRIDER_SHUTDOWN_LINGER_S"] or "") + number("shutdown.drain_timeout_s")
    assert serving < one["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("variant", WITH_PODS)
def test_grace_period_covers_the_drain(variant: str) -> None:
    for one in templates(variant):
        assert one["spec"].get("terminationGracePeriodSeconds", 30) > number("shutdown.drain_timeout_s")


# The sidecar and the code ---------------------------------------------------------------------------------------------


def number(path: str) -> float:
    """The default of a setting of the file."""
    *sections, key = path.split(".")
    section: Any = File
    for name in sections:
        section = section.model_fields[name].annotation
    return float(section.model_fields[key].default)


def test_ports_are_those_of_the_code() -> None:
    data, admin = number("listen.data.port"), number("listen.admin.port")
    env = values(sidecar())
    assert env["OUTRIDER_LISTEN_DATA_PORT"] == f"{data:.0f}"
    assert env["OUTRIDER_LISTEN_ADMIN_PORT"] == f"{admin:.0f}"
    # The data port is bound to loopback: not declared.
    assert [(port["name"], port["containerPort"]) for port in sidecar()["ports"]] == [("outrider-admin", admin)]
    [monitored] = the("monitoring", "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert monitored["port"] == "outrider-admin"
    [ingress] = the("network", "NetworkPolicy")["spec"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "outrider-admin"}]
    assert [rest for word, rest in instructions() if word == "EXPOSE"] == [f"{admin:.0f}"]


def test_probes_ask_routes_that_exist() -> None:
    probes = {
        (kind, container[kind]["httpGet"]["path"], container[kind]["httpGet"]["port"])
        for variant in WITH_PODS
        for one in templates(variant)
        for container in containers(one["spec"])
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        if kind in container
    }
    assert probes == {
        ("startupProbe", "/startupz", "outrider-admin"),
        ("livenessProbe", "/livez", "outrider-admin"),
        ("readinessProbe", "/readyz", "outrider-admin"),
    }
    [scraped] = [one["path"] for one in the("monitoring", "PodMonitor")["spec"]["podMetricsEndpoints"]]
    routes = (ROOT / "proxy/server/admin.py").read_text()
    for path in {scraped, *(path for _, path, _ in probes)}:
        assert f'"{path}"' in routes


def test_variables_and_arguments_are_known() -> None:
    known = {"OUTRIDER_" + "_".join(path).upper() for path, _ in scalars()}
    for variant in WITH_PODS:
        for one in templates(variant):
            env = values(sidecar(one["spec"]))
            assert {name for name in env if name.startswith("OUTRIDER_")} <= known
    arguments = cli._parser().parse_args(sidecar()["args"])
    assert (arguments.command, arguments.config) == ("run", "/etc/outrider/config.yaml")


def test_mounts_meet_volumes_and_the_config_is_a_directory() -> None:
    volumes = {volume["name"]: volume for volume in pod_spec()["volumes"]}
    mounts = {mount["name"]: mount for mount in sidecar()["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert not any("subPath" in mount for mount in mounts.values())
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"outrider-data"}
    assert volumes["outrider-config"]["configMap"]["name"] == the("config", "ConfigMap")["metadata"]["name"]
    assert f"--config={mounts['outrider-config']['mountPath']}/config.yaml" in sidecar()["args"]
    data = mounts["outrider-data"]["mountPath"]
    env = values(sidecar())
    assert (env["OUTRIDER_STORE_PATH"] or "").startswith(f"{data}/")
    assert env["TMPDIR"] == data
    assert dict(last_stage())["WORKDIR"] == data
    annotations = the("base", "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] == "outrider-data"


@pytest.mark.parametrize("variant", ["config", "examples/deployment"])
def test_key_files_of_the_config_are_those_of_the_volume(variant: str) -> None:
    [text] = [
        document["data"]["config.yaml"] for document in rendered(variant) if "config.yaml" in document.get("data", {})
    ]
    config = yaml.safe_load(text)
    keys = named(pod_spec()["volumes"], "outrider-keys")
    mount = named(sidecar()["volumeMounts"], "outrider-keys")["mountPath"]
    mounted = {
        f"{mount}/{item['path']}" for source in keys["projected"]["sources"] for item in source["secret"]["items"]
    }
    assert {provider["api_key"]["file"] for provider in config["providers"].values()} == mounted
    # A missing Secret disables one provider; it must not keep the pod from starting.
    assert all(source["secret"]["optional"] for source in keys["projected"]["sources"])


@pytest.mark.parametrize("path", ["config/config.yaml", "examples/deployment/config.yaml"])
def test_config_passes_outrider_check(path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", str(K8S / path)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The app --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", WITH_PODS)
def test_every_app_container_reaches_the_data_port_by_address(variant: str) -> None:
    # Not "localhost": Node 17 and later resolve it to ::1 first.
    for one in templates(variant):
        for container in one["spec"]["containers"]:
            if container["name"] != "outrider":
                env = values(container)
                assert env["OPENAI_BASE_URL"] == f"http://127.0.0.1:{number('listen.data.port'):.0f}/v1"
                assert env["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{number('listen.data.port'):.0f}"
                assert env["OPENAI_API_KEY"]


@pytest.mark.parametrize("variant", WITH_PODS)
def test_selectors_match_the_pods(variant: str) -> None:
    for document in rendered(variant):
        if "selector" in document.get("spec", {}):
            pod = template(document)
            assert pod is not None
            assert document["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_network_policy_and_monitor_select_by_the_label() -> None:
    assert the("network", "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": LABEL}
    assert the("monitoring", "PodMonitor")["spec"]["selector"] == {"matchLabels": LABEL}


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert sidecar()["image"] == f"outrider:{version}"
    [image] = yaml.safe_load((K8S / "examples/deployment/kustomization.yaml").read_text())["images"]
    assert image["newTag"] == version
    assert f"outrider:{version}" in (K8S / "Dockerfile").read_text()
