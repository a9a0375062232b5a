"""The kustomize component on workloads that are not ours: whom it changes, and what it leaves as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.k8s.rendering import K8S, LABEL, Json, built, named, template, the, values

URLS = {"OPENAI_BASE_URL": "http://127.0.0.1:8711/v1", "ANTHROPIC_BASE_URL": "http://127.0.0.1:8711"}

KINDS = {
    "Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1", "CronJob": "batch/v1",
}  # fmt: skip


def workload(kind: str, name: str = "app", labels: Json | None = None, **spec: Any) -> Json:
    spec.setdefault("containers", [{"name": "one", "image": "i:1"}, {"name": "two", "image": "i:1"}])
    pod: Json = {"metadata": {"labels": {"app": name}}, "spec": spec}
    inner: Json = {"template": pod}
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        inner["selector"] = {"matchLabels": {"app": name}}
    if kind == "CronJob":
        inner = {"schedule": "0 6 * * *", "jobTemplate": {"spec": inner}}
    return {
        "apiVersion": KINDS[kind],
        "kind": kind,
        "metadata": {"name": name, "labels": LABEL if labels is None else labels},
        "spec": inner,
    }


def overlaid(directory: Path, *workloads: Json, **more: Any) -> dict[str, Json]:
    """The pods that an overlay with the component makes of these workloads, by the workload's name."""
    (directory / "app.yaml").write_text(yaml.safe_dump_all(workloads))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["app.yaml"],
        "components": [os.path.relpath(K8S / "component", directory.resolve())],
        **more,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = built(directory)
    # What the component takes its values from is not sent to the cluster.
    assert {document["kind"] for document in documents} <= set(KINDS)
    return {document["metadata"]["name"]: found for document in documents if (found := template(document))}


def test_every_kind_of_workload_gets_the_sidecar(tmp_path: Path) -> None:
    pods = overlaid(tmp_path, *(workload(kind, kind.lower()) for kind in KINDS))
    base = the("base", "Deployment")["spec"]["template"]
    assert pods.keys() == {kind.lower() for kind in KINDS}
    for name, pod in pods.items():
        assert pod["spec"]["initContainers"] == base["spec"]["initContainers"], name
        assert pod["spec"]["volumes"] == base["spec"]["volumes"]
        assert pod["metadata"]["labels"] == {"app": name, **LABEL}
        assert [values(container) for container in pod["spec"]["containers"]] == [URLS, URLS]


def test_a_workload_without_the_label_stays_as_it_was(tmp_path: Path) -> None:
    plain = workload("Deployment", "plain", labels={"outrider/inject": "disabled"})
    pods = overlaid(tmp_path, workload("Deployment"), plain)
    assert pods["plain"] == plain["spec"]["template"]


def test_what_the_app_has_is_kept(tmp_path: Path) -> None:
    pod = overlaid(
        tmp_path,
        workload(
            "Deployment",
            initContainers=[{"name": "migrate", "image": "m:1"}],
            volumes=[{"name": "cache", "emptyDir": {}}],
            containers=[
                {
                    "name": "web",
                    "image": "i:1",
                    "env": [{"name": "MODE", "value": "x"}],
                    "envFrom": [{"configMapRef": {"name": "mine"}}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/c"}],
                }
            ],
        ),
    )["app"]
    assert [one["name"] for one in pod["spec"]["initContainers"]] == ["outrider", "migrate"]
    assert named(pod["spec"]["volumes"], "cache") == {"name": "cache", "emptyDir": {}}
    [web] = pod["spec"]["containers"]
    assert values(web) == {"MODE": "x", **URLS}
    assert web["envFrom"] == [{"configMapRef": {"name": "mine"}}]
    assert web["volumeMounts"] == [{"name": "cache", "mountPath": "/c"}]


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_keep_leaves_the_variables_alone(tmp_path: Path, kind: str) -> None:
    own = [{"name": "OPENAI_BASE_URL", "value": "https://api.openai.com/v1"}]
    pod = overlaid(
        tmp_path,
        workload(
            kind, labels={**LABEL, "outrider/env": "keep"}, containers=[{"name": "a", "image": "i:1", "env": own}]
        ),
    )["app"]
    assert pod["spec"]["containers"][0]["env"] == own
    assert pod["spec"]["initContainers"][0]["name"] == "outrider"


def test_a_patch_of_the_overlay_wins(tmp_path: Path) -> None:
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "a,b"}},
                "spec": {
                    "initContainers": [{"name": "outrider", "resources": {"limits": {"memory": "512Mi"}}}],
                    "containers": [{"name": "one", "env": [{"name": "OPENAI_BASE_URL", "value": "http://mine"}]}],
                    "volumes": [{"name": "outrider-config", "configMap": {"name": "mine"}}],
                },
            }
        },
    }
    pod = overlaid(tmp_path, workload("Deployment"), patches=[{"patch": yaml.safe_dump(patch)}])["app"]
    assert values(named(pod["spec"]["containers"], "one"))["OPENAI_BASE_URL"] == "http://mine"
    assert values(named(pod["spec"]["containers"], "two")) == URLS
    assert pod["spec"]["initContainers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    assert named(pod["spec"]["volumes"], "outrider-config")["configMap"] == {"name": "mine"}
    assert list(pod["metadata"]["annotations"].values()) == ["a,b"]


def test_readiness_adds_its_probe_only(tmp_path: Path) -> None:
    components = [os.path.relpath(K8S / name, tmp_path.resolve()) for name in ("component", "readiness")]
    pod = overlaid(tmp_path, workload("StatefulSet"), components=components)["app"]
    ours = pod["spec"]["initContainers"][0]
    assert ours.pop("readinessProbe")["httpGet"] == {"path": "/readyz", "port": "outrider-admin"}
    assert ours == the("base", "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
