"""The differential fuzzer, long: `make fuzz`, or `make fuzz ARGS="--pairs 500 --seed 3 llava"`.

Runs pairs of a batch and a slicer, and faulty batches, of every tiny family, and prints wrong
verdicts: their number, and the first of each kind. The exit status is 1 if there were any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from architectures import VARIABLE, architectures, use_torchvision  # noqa: E402

use_torchvision()

from differential import clips, trial  # noqa: E402
from differential.faults import FAULTS  # noqa: E402
from differential.sound import pool  # noqa: E402

import vlmdebug as vd  # noqa: E402
from vlmdebug.families import FAMILIES  # noqa: E402


def main() -> int:
    """Run both kinds of trials and print the wrong verdicts."""
    options = _options()
    if VARIABLE not in os.environ and not options.here:
        return _both(sys.argv[1:])
    torch.set_num_threads(1)  # tiny models are faster on one thread, and two runs share the cores
    counted: Counter[str] = Counter()
    wrong: dict[tuple[str, str], list[Any]] = defaultdict(list)
    wanted = options.family or architectures()
    for family in (name for name in architectures() if name in wanted):
        for kind, name, outcome in _outcomes(family, options):
            counted[kind] += 1
            counted[f"{kind}: {outcome.verdict}, model: {outcome.truth}"] += 1
            if outcome.fault:
                wrong[outcome.fault, name].append(outcome)
    for what, count in sorted(counted.items()):
        print(f"{count:7} {what}")
    for (fault, name), outcomes in sorted(wrong.items()):
        print(f"{fault}, {name}: {len(outcomes)} times\n    {outcomes[0]}")
    print(f"{sum(map(len, wrong.values()))} judged wrongly")
    return bool(wrong)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", nargs="*", help="these tiny families only")
    parser.add_argument("--pairs", type=int, default=330, help="of each family (default 330)")
    parser.add_argument("--batches", type=int, default=35, help="of each family (default 35)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="without the families of torchvision")
    return parser.parse_args()


def _both(arguments: list[str]) -> int:
    """Families that need torchvision run in a separate process, at the same time."""
    runs = [
        subprocess.Popen([sys.executable, __file__, *arguments, *more], env={**os.environ, **env})
        for more, env in ((["--here"], {}), ([], {VARIABLE: "1"}))
    ]
    return max(run.wait() for run in runs)


def _outcomes(family: str, options: argparse.Namespace) -> Any:
    dice, sounds = Random(f"{options.seed} {family}"), list(pool(family))
    layouts = options.pairs if family in FAMILIES else 0
    batches = {
        source: vd.read_batch(
            source.inputs,
            processor=source.processor,
            config=source.model.config,
            num_images=list(source.images),
        )
        for source in sounds
    }
    for _ in range(options.pairs):
        pair = trial.drawn(sounds, dice)
        yield "pairs", str(pair.mutation), trial.tried(pair, batches[pair.sound])
    for pair in (trial.drawn(list(clips.pool(family)), dice) for _ in range(layouts)):
        yield "pairs of clips", str(pair.mutation), trial.tried(pair, pair.sound.batch)
    done = 0
    while done < options.batches:
        fault = dice.choice(FAULTS)
        outcome = trial.tried_alone(dice.choice(sounds), fault, dice)
        if outcome is not None:
            done += 1
            yield "batches", fault.name, outcome


if __name__ == "__main__":
    sys.exit(main())
