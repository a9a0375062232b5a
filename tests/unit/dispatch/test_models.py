"""The model list: what the routes reach, in the listener's dialect."""

from __future__ import annotations

from proxy.config.compiled import Model, Route, RouteTarget
from proxy.dispatch.models import listing
from tests.unit.config import sample


def test_names_that_the_configuration_spells_out_are_listed_once_with_their_first_owner() -> None:
    listed = listing(sample.config(), "/v1/models", False)
    assert listed is not None
    assert listed["object"] == "list"
    assert [(entry["id"], entry["owned_by"]) for entry in listed["data"]] == [
        ("gpt-4o", "openai"),
        ("gpt-4o-mini", "openai"),
        ("small", "deepinfra"),
    ]
    assert all(set(entry) == {"id", "object", "created", "owned_by"} for entry in listed["data"])


def test_a_model_that_only_a_glob_covers_can_be_asked_for() -> None:
    found = listing(sample.config(), "/v1/models/gpt-99", False)
    assert found == {"id": "gpt-99", "object": "model", "created": 0, "owned_by": "openai"}


def test_ids_come_percent_encoded() -> None:
    provider = sample.openai(models=(Model(asked="org/name v2", name=""),))
    found = listing(sample.config(provider), "/v1/models/org%2Fname%20v2", False)
    assert found is not None
    assert found["id"] == "org/name v2"
    assert listing(sample.config(provider), "/v1/models/org/name%20v2", False) == found


def test_an_id_that_no_route_serves_is_none() -> None:
    assert listing(sample.config(sample.deepinfra()), "/v1/models/gpt-99", False) is None


def test_anthropic_listener_gets_anthropics_shape() -> None:
    listed = listing(sample.config(), "/v1/models", True)
    assert listed is not None
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "gpt-4o", "small")
    assert all(entry["type"] == "model" and entry["display_name"] == entry["id"] for entry in listed["data"])


def test_nothing_to_list_is_an_empty_list_in_both_shapes() -> None:
    only_globs = sample.config(sample.openai(models=(Model(asked="*", name=""),)))
    assert listing(only_globs, "/v1/models", False) == {"object": "list", "data": []}
    listed = listing(only_globs, "/v1/models", True)
    assert listed is not None
    assert (listed["data"], listed["first_id"], listed["last_id"]) == ([], None, None)


def test_a_provider_without_its_key_serves_nothing() -> None:
    disabled = sample.config(sample.openai(disabled="${KEY} is not set"))
    assert listing(disabled, "/v1/models/gpt-4o", False) is None
    listed = listing(disabled, "/v1/models", False)
    assert listed is not None
    assert listed["data"] == []


def test_a_route_lists_only_the_models_it_matches() -> None:
    routes = (Route(name="r", models=("gpt-4o", "o-*"), targets=(RouteTarget(provider="openai"),)),)
    listed = listing(sample.config(sample.openai(), routes=routes), "/v1/models", False)
    assert listed is not None
    assert [entry["id"] for entry in listed["data"]] == ["gpt-4o"]
    assert listing(sample.config(sample.openai(), routes=routes), "/v1/models/gpt-4o-mini", False) is None
    assert listing(sample.config(sample.openai(), routes=routes), "/v1/models/o-3", False) is not None
