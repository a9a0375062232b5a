"""`make fuzz`: the targets under atheris, which keeps the changes that reach new code and goes on from them.

    python -m tests.fuzz.guided [TARGET [options of libFuzzer, e.g. -max_total_time=600]]

Without a target every one gets a minute. Found inputs live in ``.fuzz/TARGET``; what broke a target is written beside
them as ``TARGET-crash-…``. It becomes a regression test, with an input of our own that shows the same.
"""

from __future__ import annotations

import subprocess
import sys

import atheris

with atheris.instrument_imports(include=["proxy"], enable_loader_override=False):
    from tests.fuzz.targets import ROOT, TARGETS

EACH_S = 60


def escaped(word: bytes) -> str:
    """As libFuzzer's dictionaries want it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def every_target() -> int:
    """Each in a process of its own, since libFuzzer ends the one it runs in; 1 when one of them was broken."""
    command = [sys.executable, "-m", "tests.fuzz.guided"]
    ended = {name: subprocess.run([*command, name, f"-max_total_time={EACH_S}"], check=False) for name in TARGETS}
    broken = [name for name, run in ended.items() if run.returncode]
    print(f"broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def main() -> int:
    name, *options = sys.argv[1:] or [""]
    if not name:
        return every_target()
    if name not in TARGETS:
        sys.exit(f"name a target: {', '.join(TARGETS)}")
    target, kept = TARGETS[name], ROOT / ".fuzz" / name
    kept.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(target.seeds()):
        (kept / f"seed-{n}").write_bytes(seed)
    words = kept.parent / f"{name}.words"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in target.words))
    given = [f"-dict={words}", f"-artifact_prefix={kept.parent}/{name}-", "-max_len=4096", *options, str(kept)]
    atheris.Setup([sys.argv[0], *given], target.check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
