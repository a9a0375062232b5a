"""The injection policy, executed on pods: who gets the sidecar, where it stands, and what stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.k8s.policy import Policy
from tests.unit.k8s.rendering import LABEL, RELEASES, Json, named, the, values

V1 = [release for release in RELEASES if tuple(map(int, release.split("."))) >= (1, 36)]
"""The releases that have MutatingAdmissionPolicy in v1."""

ANNOTATION = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(the("inject", "MutatingAdmissionPolicy"))


def pod(**spec: Any) -> Json:
    spec.setdefault("containers", [{"name": "web", "image": "web:1"}])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": dict(LABEL)}, "spec": spec}


def test_a_bare_pod_gets_what_the_base_has(policy: Policy) -> None:
    admitted = policy.admitted(pod())
    base = the("base", "Deployment")["spec"]["template"]
    assert admitted["spec"]["initContainers"] == base["spec"]["initContainers"]
    assert admitted["spec"]["volumes"] == base["spec"]["volumes"]
    assert admitted["metadata"]["annotations"] == base["metadata"]["annotations"]
    app = values(base["spec"]["containers"][0])
    assert values(admitted["spec"]["containers"][0]) == {name: app[name] for name in app if name.endswith("_BASE_URL")}


@pytest.mark.parametrize("release", RELEASES)
def test_the_result_is_a_pod(policy: Policy, release: str) -> None:
    kubernetes_validate.validate(policy.admitted(pod()), release, strict=True)


@pytest.mark.parametrize("release", V1)
def test_the_policy_compiles_against_every_release_that_has_it(release: str) -> None:
    assert Policy(the("inject", "MutatingAdmissionPolicy"), release).selects(pod())


def test_twice_is_once(policy: Policy) -> None:
    once = policy.admitted(pod())
    assert not policy.selects(once)
    assert policy.admitted(once) == once


@pytest.mark.parametrize(
    "untouched",
    [
        pod() | {"metadata": {"name": "web"}},
        pod() | {"metadata": {"name": "web", "labels": {"outrider/inject": "disabled"}}},
        pod(initContainers=[{"name": "migrate", "image": "m:1"}, {"name": "outrider", "image": "mine:1"}]),
        pod(containers=[{"name": "web", "image": "web:1"}, {"name": "outrider", "image": "mine:1"}]),
    ],
    ids=["no label", "another value", "a sidecar of its own", "a plain sidecar of its own"],
)
def test_others_are_left_alone(policy: Policy, untouched: Json) -> None:
    assert policy.admitted(untouched) == untouched


def test_the_sidecar_stands_in_front_and_the_rest_stays(policy: Policy) -> None:
    before = pod(
        initContainers=[{"name": "migrate", "image": "m:1"}, {"name": "warm", "image": "w:1"}],
        volumes=[{"name": "cache", "emptyDir": {}}],
    )
    before["metadata"]["annotations"] = {"team": "shop"}
    after = policy.admitted(before)
    assert [one["name"] for one in after["spec"]["initContainers"]] == ["outrider", "migrate", "warm"]
    assert after["spec"]["initContainers"][1:] == before["spec"]["initContainers"]
    assert after["spec"]["volumes"][0] == before["spec"]["volumes"][0]
    assert after["metadata"]["annotations"] == {"team": "shop", ANNOTATION: "outrider-data"}
    assert after["metadata"]["labels"] == before["metadata"]["labels"]


def test_what_a_container_sets_itself_is_not_overwritten(policy: Policy) -> None:
    own = {"name": "OPENAI_BASE_URL", "value": "https://api.openai.com/v1"}
    elsewhere = {"name": "ANTHROPIC_BASE_URL", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "url"}}}
    after = policy.admitted(
        pod(
            containers=[
                {"name": "one", "image": "i:1", "env": [own]},
                {"name": "both", "image": "i:1", "env": [own, elsewhere]},
                {"name": "other", "image": "i:1", "env": [{"name": "MODE", "value": "x"}]},
                {"name": "none", "image": "i:1"},
            ]
        )
    )["spec"]["containers"]
    ours = [
        {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:8711/v1"},
        {"name": "ANTHROPIC_BASE_URL", "value": "http://127.0.0.1:8711"},
    ]
    assert [one["name"] for one in after] == ["one", "both", "other", "none"]
    assert named(after, "one")["env"] == [own, ours[1]]
    assert named(after, "both")["env"] == [own, elsewhere]
    assert named(after, "other")["env"] == [{"name": "MODE", "value": "x"}, *ours]
    assert named(after, "none")["env"] == ours


@pytest.mark.parametrize("name", ["outrider-config", "outrider-keys", "outrider-data"])
def test_a_volume_of_the_pods_own_takes_the_place_of_ours(policy: Policy, name: str) -> None:
    own = {"name": name, "secret": {"secretName": "own"}}
    volumes = policy.admitted(pod(volumes=[own]))["spec"]["volumes"]
    assert named(volumes, name) == own
    assert {volume["name"] for volume in volumes} == {"outrider-config", "outrider-keys", "outrider-data"}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('restartPolicy: "Always"', 'restartPolcy: "Always"'),
        ("runAsUser: 65532", 'runAsUser: "65532"'),
        ('readOnly: true', 'readOnly: "true"'),
        ('path: "/startupz"', "path: 1"),
        ("Object.spec.volumes.emptyDir{", "Object.spec.volumes.emptydir{"),
        ('op: "add", path: "/spec/initContainers/0"', 'operation: "add", path: "/spec/initContainers/0"'),
    ],
)  # fmt: skip
def test_the_compiler_has_teeth(right: str, wrong: str) -> None:
    document = the("inject", "MutatingAdmissionPolicy")
    patch = document["spec"]["mutations"][0]["jsonPatch"]
    assert right in patch["expression"]
    patch["expression"] = patch["expression"].replace(right, wrong, 1)
    with pytest.raises((RuntimeError, KeyError)):
        Policy(document)


def test_the_policy_is_bound_and_harmless_when_it_fails() -> None:
    policy, binding = the("inject", "MutatingAdmissionPolicy"), the("inject", "MutatingAdmissionPolicyBinding")
    assert policy["spec"]["failurePolicy"] == "Ignore"
    assert policy["spec"]["matchConstraints"]["objectSelector"] == {"matchLabels": LABEL}
    assert [rule["operations"] for rule in policy["spec"]["matchConstraints"]["resourceRules"]] == [["CREATE"]]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    excluded: list[str] = []
    for one in binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]:
        assert one["operator"] == "NotIn"
        excluded += one["values"] if one["key"] == "kubernetes.io/metadata.name" else []
    assert "kube-system" in excluded


def test_samples_do_not_change_under_the_policy(policy: Policy) -> None:
    before = pod(volumes=[{"name": "cache", "emptyDir": {}}])
    kept = copy.deepcopy(before)
    policy.admitted(before)
    assert before == kept
