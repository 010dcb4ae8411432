"""What a model does with its inputs, as plain values: the facts behind every verdict.

A layout refers to one `ModelRules`. The rules of the models are in `vlmdebug.families.rules` and in
the families; only `vlmdebug.core.presence` and `vlmdebug.outcomes.forward` evaluate them. Only
observed facts are recorded: rules that were tested in no release predict nothing.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vlmdebug.core.lazy import lazy

WhenNoMedia = Literal["omit", "either", "keep"]
"""What a chunk without media gets of a key: nothing, nothing or zero rows, or its padded rows."""
Tolerated = Literal[
    "one", "several", "repeated", "none", "surplus", "short", "any", "unbatched", "nested"
]
"""One row (it is broadcast), several rows in place of one (other keys are broadcast), fewer rows
that are repeated until they are enough, no rows, rows after the right ones; fewer rows, of which it
makes fewer features; any rows, as it reads none; a row without its dimension; rows with a dimension
of one more."""
EachSample = Literal["always", "sometimes", "never"]


@dataclass(frozen=True)
class KeyRules:
    """What a model does with one media key.

    Attributes:
        when_no_media: What a chunk without media gets.
        runs_with: Wrong lengths and shapes, compared with the other media keys, that do not raise.
        may_skip_empty_rows: Whether the padded row of a sample without media may be left out if
            other samples of the chunk have media: the model flattens all rows.
        indexes: Whether the model takes rows by this mask, as by `pixel_values[mask]`: torch then
            needs truth values or bytes.
    """

    when_no_media: WhenNoMedia = "omit"
    runs_with: frozenset[Tolerated] = frozenset()
    may_skip_empty_rows: bool = False
    indexes: bool = False

    def takes(self, given: int, expected: int) -> bool:
        """Whether the model takes `given` rows if the other keys require `expected`."""
        if given == expected:
            return True
        if "any" in self.runs_with:
            return True
        if given > expected == 1 and "several" in self.runs_with:
            return True
        if given > expected:
            return "surplus" in self.runs_with and expected > 0
        if given and expected % given == 0 and "repeated" in self.runs_with:
            return True
        if "short" in self.runs_with:
            return True
        return ("none" if given == 0 else "one" if given == 1 else "") in self.runs_with


@dataclass(frozen=True)
class TokenRows:
    """What a model does with wrong rows of a token key: True it runs, False it raises.

    None means that it is not known.

    Attributes:
        same: As many rows as `input_ids`, of other samples.
        fewer: Fewer rows, but more than one.
        one: One row for several samples.
        more: More rows than samples, with several samples.
        beside_one: Several rows for one sample.
        none: No rows.
    """

    same: bool | None = None
    fewer: bool | None = None
    one: bool | None = None
    more: bool | None = None
    beside_one: bool | None = None
    none: bool | None = None

    def takes(self, given: int, samples: int) -> bool | None:
        """Whether the model takes this many rows for `samples` samples."""
        if given == samples:
            return self.same
        if given > samples:
            return self.beside_one if samples == 1 else self.more
        if given == 0:
            return self.none
        return self.one if given == 1 else self.fewer


@dataclass(frozen=True)
class MRope:
    """How positions in time, height and width follow from grids (M-RoPE).

    Attributes:
        videos: Each frame is laid out as an image (`frames`); or all are one block, one step of
            time apart (`whole`), or as many steps as the seconds between two frames have
            (`seconds`); None if that is not known.
        newline: Whether a token ends each row of an image.
        per_second: Steps of time in a second; None if that is not known.
        timed_by: The key that holds the seconds, where videos have some.
        sounds: Audio is laid out as text, and text goes on behind the last place of a video, in
            time too. The tokens of a video and of its own sound take turns: by stretches of time,
            with one position for the begin tokens of both and one for the end tokens (`chunks`), or
            one by one, with fractions of time (`times`). None in models without audio.
        per_chunk: Steps of time in a stretch; None if that is not known.
    """

    videos: Literal["frames", "whole", "seconds"] | None = None
    newline: bool = False
    per_second: float | None = None
    timed_by: str = ""
    sounds: Literal["chunks", "times"] | None = None
    per_chunk: int | None = None


@dataclass(frozen=True)
class ModelRules:
    """Which keys a model needs, and what its forward pass checks.

    Attributes:
        seen: Releases of transformers in which the rules were tested, such as `"5.23"`; empty if
            there are none, so no outcome follows from them.
        checks_totals: Whether the model compares the features of a call with its placeholder
            tokens.
        no_placeholders: Whether the text has no placeholder tokens: the model attends to images, or
            puts them at a place of its own.
        ignores_surplus_features: Whether it runs with more features than placeholder tokens, and
            ignores the last ones.
        checks_each_sample: Whether it also matches the images of each sample with their sizes (as
            Qwen's M-RoPE does); `sometimes`: it does, but runs with some wrong sizes.
        one_placeholder: Whether images and videos share a placeholder token, so that a call with
            both raises: all their tokens are compared with the features of either.
        audio_surplus: Whether features of audio beyond its placeholder tokens are ignored.
        pads_sounds: Whether sounds of any length become as many features, whatever their mask says.
        ignores_unmasked_audio: Whether audio without its mask is ignored; other models raise.
        checks_each_row: Whether each row of pixels must fit the row of every key that describes it.
        causal: Whether no text token attends to later ones, so that padding on the right needs
            no mask.
        shows_padding_without: A mask without which tokens attend to padding that `attention_mask`
            hides; empty where that hides it from all.
        token_types_mark: The tokens at which `token_type_ids` are 1, if known: those of images, or
            those of the completion after a prompt with bidirectional attention.
        ignored: Keys that the model accepts and ignores.
        read_in_vain: Ignored keys that the model still reads, so that a wrong number of rows may
            raise.
        read_only_with: Keys that the model reads only if another key is passed, and that key.
        only_used_for_position_ids: Keys used only to compute M-RoPE's `position_ids`; not needed if
            these are passed.
        optional_if_all_ones: Masks that default to all ones.
        optional_if_all_zeros: Counts that default to zero.
        raises_without: Keys without which the model raises if it has pixels. It runs without any
            other key, but its output changes.
        sometimes_returned: Media keys that only some processors of the layout return.
        mrope: How M-RoPE's positions follow from grids; None where none do, or that is not known.
        separates_packed: Whether `position_ids` that start again keep samples in one row apart;
            None where the model is not known.
        names_model: Whether processor or config say which model it is, so that no config would say
            more of it.
        hides_padding: In which rows they keep padding in front of the text apart, too.
        repeats_positions: Whether a model with M-RoPE takes `position_ids` of two dimensions for
            all of its planes, so that those of texts keep samples apart.
        takes_block_mask: Whether an `attention_mask` of four dimensions keeps them apart, too.
        flash_attention: Whether the text attends by flash-attention; None where that is not known.
        uncast: Media that the model does not cast to the dtype of its weights, so that it raises;
            tried with float64 in each tiny architecture (transformers 5.24).
        keys: Rules of single media keys; `KeyRules()` for any other key.
        tokens: What the model does with wrong rows of each token key.
    """

    seen: tuple[str, ...] = ()
    checks_totals: bool = True
    no_placeholders: bool = False
    ignores_surplus_features: bool = False
    checks_each_sample: EachSample = "never"
    one_placeholder: bool = False
    audio_surplus: bool = False
    pads_sounds: bool = False
    ignores_unmasked_audio: bool = False
    checks_each_row: bool = False
    causal: bool = True
    shows_padding_without: str = ""
    token_types_mark: Literal["images", "completion"] | None = None
    ignored: frozenset[str] = frozenset()
    read_in_vain: frozenset[str] = frozenset()
    read_only_with: Mapping[str, str] = field(default_factory=dict)
    only_used_for_position_ids: frozenset[str] = frozenset()
    optional_if_all_ones: frozenset[str] = frozenset()
    optional_if_all_zeros: frozenset[str] = frozenset()
    raises_without: frozenset[str] = frozenset()
    sometimes_returned: frozenset[str] = frozenset()
    mrope: MRope | None = None
    separates_packed: bool | None = None
    names_model: bool = False
    hides_padding: Literal["all", "texts"] | None = None
    repeats_positions: bool = False
    takes_block_mask: bool = False
    flash_attention: bool | None = None
    uncast: frozenset[str] = frozenset()
    keys: Mapping[str, KeyRules] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)

    @property
    def predict(self) -> bool:
        """Whether anything is known about the forward pass."""
        return bool(self.seen)

    def reduced(self, *, untested: bool, ignored: frozenset[str]) -> ModelRules:
        """The rules with more ignored keys, and without releases if it is `untested`."""
        if not untested and ignored <= self.ignored:
            return self
        return self.but(seen=() if untested else self.seen, ignored=self.ignored | ignored)

    def but(self, **changes: Any) -> ModelRules:
        """The rules with these fields instead; made once, as each call of a model asks."""
        key = (*changes.items(),)
        if key not in self._others:
            self._others[key] = replace(self, **changes)
        return self._others[key]

    @lazy
    def _others(self) -> dict[tuple[tuple[str, Any], ...], ModelRules]:
        return {}

    def uses(self, key: str, *, positions: bool = False) -> bool:
        """Whether the model uses a key; `positions`: `position_ids` are passed."""
        times = self.mrope is not None and key == self.mrope.timed_by
        only_places = positions and (times or key in self.only_used_for_position_ids)
        return key not in self.ignored and not only_places

    def leaves_unread(self, key: str, given: Container[str]) -> bool:
        """Whether a call with these keys computes the same whatever `key` holds."""
        places = self.predict and key in self.only_used_for_position_ids
        return places and "position_ids" in given

    def lays_out_media(self, *, positions: bool = False) -> bool:
        """Whether it looks at the media of each sample, as M-RoPE does to compute positions.

        It does not where the call has `position_ids` (`modeling_qwen2_5_vl.forward`, 5.24).
        """
        placed = self.mrope is not None and positions
        return self.checks_each_sample != "never" and not placed

    def shows_padding(self, inputs: Mapping[str, Any]) -> bool:
        """Whether tokens attend to padding that the `attention_mask` of these inputs hides."""
        mask = self.shows_padding_without
        return bool(mask) and inputs.get(mask) is None

    def takes_totals(self, placeholders: int, features: int) -> bool:
        """Whether the model runs with so many placeholder tokens and features in a call."""
        surplus = self.ignores_surplus_features and features > placeholders
        return placeholders == features or surplus

    def of(self, key: str) -> KeyRules:
        """The rules of a media key."""
        return self.keys.get(key, _USUAL)


_USUAL = KeyRules()
UNKNOWN = ModelRules()
"""The rules of a model that was never run: no outcome follows from them."""
