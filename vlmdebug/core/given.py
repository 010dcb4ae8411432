"""Wrong arguments: by position, unknown, of the wrong type, or mixed up.

Each raises `BadInput` that names the argument, the given value and the expected one. Objects of
transformers and torch are identified by their class names, so neither is imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, MutableMapping
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, ParamSpec, TypeVar

from vlmdebug.core.layout import VIDEO_AND_AUDIO
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

P = ParamSpec("P")
R = TypeVar("R")

KINDS = {
    "Batch": "batch",
    "Report": "report",
    "BatchFeature": "batch",
    "BatchEncoding": "batch",
    "PreTrainedModel": "model",
    "PreTrainedConfig": "config",
    "PretrainedConfig": "config",
    "PreTrainedTokenizerBase": "tokenizer",
    "ImageProcessingMixin": "image processor",
    "BaseVideoProcessor": "video processor",
    "FeatureExtractionMixin": "feature extractor",
    "ProcessorMixin": "processor",
    "DataLoader": "data loader",
    "Dataset": "data set",
    "Module": "model",
    "ndarray": "array",
    "Tensor": "tensor",
}
"""The kind of an object, by the name of its class or of a base class."""
ELSEWHERE = {"model": "model=", "config": "config=", "processor": "processor="}
PARTS = ("tokenizer", "image processor", "video processor", "feature extractor")
"""Parts of a processor; the processor has all of them."""
STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
PROFILES = ("fast", "default", "nightly")
"""How much a test of slicing code tries."""
SIDES = ("right", "left")
"""Where shorter samples are padded."""
ALSO = ("chunk_size", "pictures")
"""Arguments of functions that pass all others to `read_batch`."""


def kind_of(thing: object) -> str | None:
    """`model`, `processor`, `tokenizer`, …; None for anything else.

    >>> import numpy
    >>> kind_of(numpy.zeros(2)), kind_of({}), kind_of("text")
    ('array', None, None)
    """
    for cls in type(thing).__mro__:
        if cls.__module__.partition(".")[0] != "builtins" and cls.__name__ in KINDS:
            return KINDS[cls.__name__]
    return None


def described(thing: object) -> str:
    """`a LlavaProcessor, which is a processor`, `a class (LlavaProcessor)`, `5`."""
    if isinstance(thing, type):
        return f"the class {one_line(thing.__name__, 80)}, not an object of it"
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        return one_line(repr(thing), 80)
    kind, name = kind_of(thing), one_line(type(thing).__name__, 80)
    return f"a {name}" + (f", which is a{'n' * (kind[0] in 'aeiou')} {kind}" if kind else "")


def refuse_other_kind(argument: str, thing: object) -> None:
    """Refuse an object that is certainly not the processor, config or model that is expected.

    Raises:
        BadInput: It is of another kind; the message says where it belongs.
    """
    kind = kind_of(thing)
    plain = isinstance(thing, (type, bool, int, float, complex, bytes, list, tuple, set))
    if not plain and not inspect.isroutine(thing) and kind in (None, argument):
        return
    if kind in ELSEWHERE:
        todo = f"Pass it as {ELSEWHERE[kind]}, or leave it out."
    elif kind in PARTS:
        todo = f"Pass the whole processor, of which the {kind} is a part."
    else:
        todo = f"Pass the {argument} itself, as its from_pretrained returned it."
    raise BadInput(
        f"{argument} is {described(thing)}, but it takes the {argument}. "
        f"It has no information about the batch, so nothing was read. {todo}"
    )


def _whole(value: Any, least: int = 0) -> bool:
    own = isinstance(value, Integral) and not isinstance(value, bool)
    return own and least <= int(value) < 2**63


def _listed(value: Any) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple, str)) and all(isinstance(one, str) for one in value)


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int)) or type(value).__name__ == "bool_"


def _seconds(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) >= 0


def _one_of(names: tuple[str, ...], value: Any) -> bool:
    return isinstance(value, str) and value in names


def _kinds_of_clips(value: Any) -> bool:
    listed = isinstance(value, Collection) and not isinstance(value, str)
    return isinstance(value, bool) or (
        listed and all(_one_of(VIDEO_AND_AUDIO, one) for one in value)
    )


def _none_or(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


NAMES = "a list of family names, which `vlmdebug families` prints, or one of them"
PATH = "a path"
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_examples": (_whole, "a whole number of cases, 0 or more, such as 200"),
    "seed": (_is(int), "a whole number, such as 0"),
    "seconds": (_none_or(_seconds), "a number of seconds, 0 or more, such as 60"),
    "families": (_none_or(_listed), NAMES),
    "tried": (_none_or(_is(MutableMapping)), "a dict to be filled, such as {}"),
    **dict.fromkeys(("text_only", "labels", "position_ids"), (_flag, "True or False")),
    "clips": (_kinds_of_clips, 'True, False, ["video"] or ["audio"]'),
    "padding_side": (
        lambda value: value is None or _one_of(SIDES, value),
        '"right", "left" or None',
    ),
    "profile": (
        lambda value: value is None or _one_of(PROFILES, value),
        '"fast", "default", "nightly" or None',
    ),
    "placeholder": (_none_or(_is(str)), "a text, or left out"),
    **dict.fromkeys(("on_mismatch", "key", "code"), (_is(str), "a text")),
    "texts": (_none_or(_texts), "a list of texts, one per sample"),
    "text": (_is(str), "the source, as text"),
    "diff": (_is(str), "a unified diff, as text"),
    "chunk": (_none_or(_whole), "the number of a chunk, from 0"),
    "log": (_none_or(_is(str, PurePath)), PATH),
    "path": (_none_or(_is(str, PurePath)), PATH),
    "ax": (_none_or(lambda value: hasattr(value, "broken_barh")), "Axes of matplotlib"),
    **dict.fromkeys(
        ("images_per_sample", "sizes", "videos_per_sample", "audios_per_sample", "frames"),
        (lambda value: getattr(value, "ndim", 1) > 0, "a list of numbers"),
    ),
}
"""The valid values of arguments with these names, in every public function."""


def refuse_other_value(name: str, value: object, effect: str) -> None:
    """Refuse a value that is invalid for that argument; `effect` says what happened.

    Raises:
        BadInput: `CHECKS[name]` does not hold.
    """
    holds, takes = CHECKS[name]
    if not holds(value):
        raise BadInput(
            f"{name} is {described(value)}, but it takes {takes}. {effect} Pass another {name}."
        )


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Check arguments by `CHECKS`; calls that Python itself refuses also raise `BadInput`."""
    signature = inspect.signature(function)
    places = tuple(signature.parameters)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True  # pytest shows the call and the message, not these lines
        for name, value in (*zip(places, args, strict=False), *kwargs.items()):
            if name in CHECKS:
                refuse_other_value(name, value, f"{function.__name__} did nothing.")
        try:
            return function(*args, **kwargs)
        except TypeError:
            said = _why_not(function.__name__, signature, args, kwargs)
            if said is None:
                raise
            raise BadInput(said) from None

    return called


def _why_not(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """Why the arguments do not fit; None if they do."""
    try:
        signature.bind(*args, **named)
    except TypeError:
        pass
    else:
        return None
    own = [one for one in signature.parameters.values() if one.kind not in STARRED]
    places = [one.name for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = [f"{one.name}=" for one in own if one.name not in places]
    if len(args) > len(places):
        extra = args[len(places)]
        kind = kind_of(extra)
        meant = f"{kind}=" if f"{kind}=" in by_name else ", ".join(by_name)
        return (
            f"{name} was given {len(args)} arguments by place, but it takes "
            f"{len(places)}: {', '.join(places)}. The next is {described(extra)}. "
            f"Nothing was done. Pass it by name: {meant or 'it takes no other'}."
        )
    every = [one.name for one in own]
    for strange in named:
        if strange not in every:
            near = get_close_matches(strange, [*every, *ALSO], 1)
            meant = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(every)}."
            return f"{name} has no argument {one_line(strange, 80)}=; {meant} Nothing was done."
    twice = [one for one in places[: len(args)] if one in named]
    if twice:
        return f"{name} was given {twice[0]} twice, by place and by name. Give it once."
    missing = [
        one.name
        for place, one in enumerate(own)
        if one.default is inspect.Parameter.empty
        and one.name not in named
        and not (one.name in places and place < len(args))
    ]
    return f"{name} was given no {' and no '.join(missing)}. It takes {', '.join(every)}."
