"""`make sim SEED=n`: one seed again, with its trace, its violations, and the shortest list of faults that still fails.

`--leave N:K` has the caller of request N leave K turns of the loop after it was sent, as the cancellation sweep does.
"""

from __future__ import annotations

import argparse
import sys

from proxy.sim.checks import judge
from proxy.sim.scenario import draw
from proxy.sim.seeds import shrink
from proxy.sim.world import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--leave", help="N:K")
    parser.add_argument("--quiet", action="store_true", help="no trace")
    args = parser.parse_args()
    leave = None
    if args.leave:
        n, _, k = args.leave.partition(":")
        leave = int(n), int(k)
    story = run(draw(args.seed), leave=leave)
    if not args.quiet:
        print("\n".join(story.trace()))
    print(f"\nseed {args.seed}, {len(story.faults)} faults, trace {story.digest()}")
    violations = judge(story)
    if not violations:
        print("nothing is violated")
        return 0
    print("\nviolated:")
    print("\n".join(f"  {violation}" for violation in violations))
    if leave is None:
        print("\nfaults that are needed for it:")
        print("\n".join(f"  {fault}" for fault in shrink(story, violations)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
