"""`make corpus`: what the running process does with every case of the HTTP corpora, and by which section it is right.

One line per case: the corpus, the case, what the proxy did, why that is right. The last lines count. Exit 1 when a case
is not as it must be; its faults follow its line.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.data import DATA
from tests.fuzz import corpora, texts, verdict
from tests.fuzz.stage import Lane, Stage, stage
from tests.fuzz.verdict import Case

PUBLIC = ("http11probe", "gunicorn", "llhttp")


def http(running: Stage, cases: Iterable[Case]) -> list[Case]:
    """Every case on a lane of its own, judged."""

    def one(lane: Lane, case: Case) -> Case:
        aimed = replace(case, raw=corpora.aimed(case.raw, lane.name))
        verdict.run(running, lane, aimed)
        return aimed

    return running.across(one, list(cases))


def json_bodies(running: Stage) -> list[Case]:
    return running.across(lambda lane, case: texts.judge_json(running, lane, case), list(texts.json_cases()))


def naughty(running: Stage) -> list[Case]:
    """Each string as a header, in a query, as a prompt and as a model's name."""

    def one(lane: Lane, n: int) -> list[Case]:
        text = texts.strings()[n]
        cases = [case for case in texts.string_cases(lane.name) if case.name == str(n)]
        for case in cases:
            verdict.run(running, lane, case)
        said = Case(corpus="blns, body", name=str(n), raw=text.encode())
        return [*cases, texts.judge_string(running, lane, said)]

    return [case for found in running.across(one, range(len(texts.strings()))) for case in found]


def everything(running: Stage) -> Iterator[list[Case]]:
    yield http(running, corpora.own())
    if (DATA / "http").exists():
        for name in PUBLIC:
            yield http(running, corpora.public(name))
        yield json_bodies(running)
        yield naughty(running)
        yield [texts.judge_yaml(case) for case in texts.yaml_cases()]


def table(cases: Iterable[Case]) -> Iterator[str]:
    for case in cases:
        yield f"{case.corpus} | {case.name} | {case.did} | {case.why}"
        for fault in case.faults:
            yield f"    WRONG: {fault[:600]}"


def summary(cases: Iterable[Case]) -> Iterator[str]:
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for case in cases:
        (wrong if case.faults else right)[case.corpus] += 1
    for corpus in {**right, **wrong}:
        yield f"{corpus:14} {right[corpus]:5} right {wrong[corpus]:4} wrong"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as running:
        found = [case for cases in everything(running) for case in cases]
    print("\n".join([*table(found), "", *summary(found)]))
    if not (DATA / "http").exists():
        print(f"only our own cases: {DATA}/http is not there")
    return 1 if any(case.faults for case in found) else 0


if __name__ == "__main__":
    sys.exit(main())
