"""A MutatingAdmissionPolicy, executed on a pod without an API server.

The expressions run in Google's CEL. Kubernetes adds two kinds of types to CEL, `JSONPatch` and `Object.…`; here they
are protobuf messages made from the Pod's own JSON Schema, so that a field that no Pod has, or a value of the wrong
type, does not compile. Protobuf knows no message and field of one name beside each other, which `Object.spec` needs:
the dots of type names become underscores before an expression is compiled.

What the API server does with the results, a JSON patch and a merge by name, is done by the few lines at the end.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from cel_expr_python import cel
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tests.unit.k8s.rendering import RELEASES, Json

_Field = descriptor_pb2.FieldDescriptorProto
_TYPE = re.compile(r"\b(Object(?:\.\w+)*|JSONPatch)(?=\s*\{)")
_DYNAMIC = {f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue")}
_SCALARS = {"string": _Field.TYPE_STRING, "integer": _Field.TYPE_INT64, "boolean": _Field.TYPE_BOOL}


class Pods:
    """The JSON Schema of a Pod, by path of fields."""

    def __init__(self, release: str) -> None:
        [folder] = [
            entry
            for entry in files("kubernetes_validate").joinpath("kubernetes-json-schema").iterdir()
            if re.fullmatch(rf"v{re.escape(release)}(\.\d+)?-local-strict", entry.name)
        ]
        self._definitions = json.loads(folder.joinpath("_definitions.json").read_text())["$defs"]

    def resolve(self, node: Json) -> Json:
        while "$ref" in node:
            node = self._definitions[node["$ref"].rsplit("/", 1)[1]]
        return node

    def at(self, path: list[str]) -> Json:
        """The object type at a path of fields; lists are looked through, as Kubernetes does."""
        node = self._definitions["io.k8s.api.core.v1.Pod"]
        for name in path:
            node = self.resolve(node["properties"][name])
            if _kind(node) == "array":
                node = self.resolve(node["items"])
        return node


def _kind(node: Json) -> str:
    """The JSON type of a schema; a choice that is not just "or null" has none."""
    kind = node.get("type", "")
    kinds = {kind} if isinstance(kind, str) else set(kind)
    kinds -= {"null"}
    return kinds.pop() if len(kinds) == 1 else ""


def _messages(names: set[str], pods: Pods) -> descriptor_pb2.FileDescriptorProto:
    """A message for every type name that the expressions use."""
    made = descriptor_pb2.FileDescriptorProto(name="outrider_test.proto", syntax="proto2")
    made.dependency.extend([any_pb2.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name])
    patch = made.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path", "from"), 1):
        patch.field.add(name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    patch.field.add(
        name="value", number=4, type=_Field.TYPE_MESSAGE, label=_Field.LABEL_OPTIONAL, type_name=".google.protobuf.Any"
    )
    for name in sorted(names - {"JSONPatch"}):
        message = made.message_type.add(name=name.replace(".", "_"))
        for number, (key, node) in enumerate(sorted(pods.at(name.split(".")[1:])["properties"].items()), 1):
            _field(message, number, f"{name}.{key}", key, pods.resolve(node), pods, names)
    return made


def _field(message: Any, number: int, path: str, key: str, node: Json, pods: Pods, names: set[str]) -> None:
    label = _Field.LABEL_OPTIONAL
    if _kind(node) == "array":
        label, node = _Field.LABEL_REPEATED, pods.resolve(node["items"])
    field = message.field.add(name=key, number=number, label=label)
    kind = _kind(node)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_MESSAGE
    if path in names:
        field.type_name = "." + path.replace(".", "_")
    elif kind == "object":
        field.type_name = ".google.protobuf.Struct"
    else:
        field.type_name = ".google.protobuf.Value"  # a number or a string: ports, quantities


class Policy:
    """A policy ready to run."""

    def __init__(self, document: Json, release: str = RELEASES[-1]) -> None:
        spec = document["spec"]
        expressions = list(_expressions(spec))
        names = {name for text in expressions for name in _TYPE.findall(text)}
        for name in list(names):
            parts = name.split(".")
            names |= {".".join(parts[:n]) for n in range(1, len(parts))}
        self._pool = descriptor_pool.DescriptorPool()
        for needed in (any_pb2, struct_pb2):
            self._pool.AddSerializedFile(needed.DESCRIPTOR.serialized_pb)
        self._pool.Add(_messages(names, Pods(release)))
        variables = {f"variables.{one['name']}": cel.Type.DYN for one in spec.get("variables", ())}
        self._environment = cel.NewEnv(self._pool, variables={"object": cel.Type.DYN, **variables})
        self._conditions = [self._compiled(one["expression"]) for one in spec.get("matchConditions", ())]
        self._variables = {one["name"]: self._compiled(one["expression"]) for one in spec.get("variables", ())}
        self._mutations = [
            (one["patchType"], self._compiled(one[_body(one["patchType"])]["expression"])) for one in spec["mutations"]
        ]
        self._selector = spec["matchConstraints"]["objectSelector"]["matchLabels"]

    def _compiled(self, expression: str) -> Any:
        return self._environment.compile(_TYPE.sub(lambda found: found[1].replace(".", "_"), expression))

    def selects(self, pod: Json) -> bool:
        """Whether the policy is about this pod at all."""
        labels = pod["metadata"].get("labels", {})
        return bool(self._selector.items() <= labels.items()) and all(
            self._value(one, pod) is True for one in self._conditions
        )

    def admitted(self, pod: Json) -> Json:
        """The pod as the API server would store it."""
        pod = copy.deepcopy(pod)
        if not self.selects(pod):
            return pod
        for kind, expression in self._mutations:
            result = self._value(expression, pod)
            if kind == "JSONPatch":
                for operation in result:
                    _patch(pod, operation)
            else:
                pod = _merged(pod, result)
        return pod

    def _value(self, expression: Any, pod: Json) -> Any:
        data = {"object": pod}
        for name, variable in self._variables.items():
            if expression is not variable and not any(expression is one for one in self._conditions):
                data[f"variables.{name}"] = variable.eval(data={"object": pod}).plain_value()
        return self._plain(expression.eval(data=data).plain_value())

    def _plain(self, value: Any) -> Any:
        """A result of CEL as JSON."""
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, Message) and value.DESCRIPTOR.full_name in _DYNAMIC:
            return MessageToDict(value)
        if isinstance(value, Message) and value.DESCRIPTOR.full_name == "google.protobuf.Any":
            inner = self._pool.FindMessageTypeByName(value.type_url.rsplit("/", 1)[1])
            return self._plain(message_factory.GetMessageClass(inner).FromString(value.value))
        if isinstance(value, Message):
            return {
                field.name: self._plain(list(got) if field.is_repeated else got) for field, got in value.ListFields()
            }
        return value


def _body(kind: str) -> str:
    return {"JSONPatch": "jsonPatch", "ApplyConfiguration": "applyConfiguration"}[kind]


def _expressions(spec: Json) -> Iterator[str]:
    for one in (*spec.get("matchConditions", ()), *spec.get("variables", ())):
        yield one["expression"]
    for one in spec["mutations"]:
        yield one[_body(one["patchType"])]["expression"]


def _patch(pod: Json, operation: Json) -> None:
    """RFC 6902, of which the policy uses `add`."""
    assert operation["op"] == "add", operation
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    place: Any = pod
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        place.insert(len(place) if last == "-" else int(last), operation["value"])
    else:
        place[last] = operation["value"]


def _merged(ours: Any, theirs: Any) -> Any:
    """Server-side apply, as far as a Pod's containers and environment need it: maps by key, lists by `name`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {**ours, **{key: _merged(ours[key], value) if key in ours else value for key, value in theirs.items()}}
    if isinstance(ours, list) and isinstance(theirs, list):
        by_name = {item["name"]: item for item in theirs}
        kept = [_merged(item, by_name.pop(item["name"], {})) for item in ours]
        return [*kept, *by_name.values()]
    return theirs
