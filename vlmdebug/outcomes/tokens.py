"""Predicts what a forward pass does with a token key that has wrong rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from vlmdebug.core.rules import TokenRows
from vlmdebug.outcomes.call import Call


def takes_tokens(call: Call, key: str) -> bool | None:
    """Whether the model runs with this key; only its number of rows matters.

    Without pixels, M-RoPE computes positions without the keys that describe pixels.
    """
    rules, used, samples = call.rules, call.keys[key], len(call.part.samples)
    if not rules.uses(key, positions=call.layout.feature_key not in call.keys):
        return None if key in rules.read_in_vain and used.length != samples else True
    if call.is_odd(key, used):
        return None
    if key == "input_ids" and (call.out_of_balance or rules.checks_each_sample == "always"):
        return False if call.out_of_balance else None
    takes = rules.tokens.get(key, TokenRows()).takes(used.length, samples)
    fewer, more = used.length < samples and takes is None, used.length > samples and not takes
    if key == "attention_mask" and used.rows and (fewer or more):
        # A mask without padding may be ignored before its rows are indexed.
        full = used.rows.foreign or call.batch.is_full(key, used.rows)
        takes = None if full else takes if more else False
    return takes and _places_fit(call, key)


def _places_fit(call: Call, key: str) -> bool | None:
    """Whether M-RoPE can place the images by `key` and the other keys of the call.

    `modeling_qwen2_vl.get_rope_index` and all that follow it (transformers 5.23): each run of image
    types takes the next grid, and there must be as many positions as unmasked tokens.
    """
    masks, types = (call.keys.get(name) for name in ("attention_mask", "mm_token_type_ids"))
    made = call.batch.image.features
    used = call.keys.get(call.layout.feature_key or "")
    placed = {"attention_mask", *call.rules.only_used_for_position_ids}
    if (
        call.rules.checks_each_sample != "always"
        or key not in placed
        or "position_ids" in call.keys
    ):
        return True
    if used is None or not used.length:
        return True
    known = [one for one in (masks, types, used) if one is not None]
    if types is None or made is None or any(call.is_foreign(one) for one in known):
        return None
    grids = iter([made[row] for row in used.rows or ()])
    mask_rows = masks.rows if masks is not None else None
    for place, row in enumerate(list(types.rows or ())[: len(call.part.samples)]):
        marked = _values(call, "mm_token_type_ids", row)
        if mask_rows is not None:
            kept = _values(call, "attention_mask", list(mask_rows)[place])
            marked = [one for one, keep in zip(marked, kept, strict=True) if keep]
        if not _fits_grids(marked, grids):
            return None if set(marked) - {0, 1} else False
    return True


def _values(call: Call, key: str, row: int) -> list[int]:
    return call.batch.inputs[key][row].tolist()


def _fits_grids(marked: Sequence[int], grids: Iterator[int]) -> bool:
    """Whether each run of image types has a grid, and the total number of positions fits."""
    runs = [len(list(run)) for kind, run in groupby(marked) if kind]
    taken = list(islice(grids, len(runs)))
    return bool(marked) and len(taken) == len(runs) and sum(taken) == sum(runs)
