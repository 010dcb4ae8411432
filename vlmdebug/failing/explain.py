"""What an error text of this class means, what usually causes it, and how to go on."""

from __future__ import annotations

from dataclasses import dataclass

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput
from vlmdebug.failing.texts import ANYWHERE, PAGES, Kind, Recognised, recognised
from vlmdebug.safe import one_line

MEANS = {
    Kind.TOTALS: "Each placeholder token in input_ids is replaced by one feature of an image, "
    "video or audio clip. The model counts both over the whole call and raises if they differ; it "
    "does not say in which sample.",
    Kind.IN_TEXT: "The processor replaces each placeholder in the text by the tokens of one image, "
    "video or audio clip. It counted both before it made a batch, and they differ.",
    Kind.NO_MEDIA: "The text names images, videos or audio clips, but the call has none.",
    Kind.NO_PLACEHOLDER: "The call has images, videos or audio clips, but nothing in the text "
    "says where they belong.",
    Kind.TRUNCATED: "The text was cut to a maximum length, and the cut is inside the tokens of an "
    "image.",
    Kind.TYPES: "The model needs mm_token_type_ids to find the images in the text. The processor "
    "returned them, and a later step dropped them.",
    Kind.RUNS: "The model takes each run of placeholder tokens for one image and compares its "
    "length with the size of that image.",
    Kind.ROWS: "The pixel rows of a call cannot be arranged as the sizes next to them say: the "
    "rows and the sizes are not of the same images, or one of them was cut.",
    Kind.STACK: "Samples were processed one by one, or without padding, so their tensors have "
    "different shapes: texts differ in length, or images in size, in tiles or in patches.",
    Kind.NO_SIZES: "The model looks for the sizes of an image or video that it found in the text, "
    "but the call has none.",
    Kind.EMPTY: "A call without images was given pixel values with zero rows. Most models take a "
    "missing key, not an empty one.",
    Kind.INDEX: "Something was counted in the text and looked up in a shorter list of images, "
    "videos or audio clips.",
    Kind.SCATTER: "The model writes the features of images, videos or audio clips over the "
    "placeholder tokens of the call, and there are fewer features than tokens.",
    Kind.LAID_OUT: "The model lays out the tokens of each sample from the sizes of its images, as "
    "M-RoPE does, and gets more or fewer positions than the sample has tokens. The two numbers "
    "differ by what is missing or too much in that sample.",
    Kind.LABELS: "The loss takes one label per token. The two numbers are tokens and labels of the "
    "whole call.",
    Kind.COLUMNS: "Two tensors that go token by token, or row by row, have different lengths: "
    "input_ids and attention_mask, token types or a mask of images, or media keys of one another.",
    Kind.SHAPE: "The pixel values of the call have a dimension more or less than the model takes, "
    "or their channels on another dimension.",
    Kind.NO_PIXELS: "The call has no pixel values, and this model cannot be called without.",
    Kind.NOTHING: "The list of images that the processor was given holds None.",
    Kind.VOCABULARY: "An embedding was asked for a row that it does not have. On a GPU this is a "
    "device-side assert.",
}
USUALLY = {
    Kind.IN_TEXT: "A placeholder was typed in the data (a literal <image>), the chat template was "
    "applied twice, or images are not nested per sample: images=[[first, second], [third]].",
    Kind.NO_MEDIA: "The images were left out of one step, or a text holds the placeholder as "
    "literal text.",
    Kind.NO_PLACEHOLDER: "The prompt was built by hand and not by the chat template, or the "
    "message has no part of type image.",
    Kind.TRUNCATED: "truncation=True or max_length. Raise it, or drop whole images.",
    Kind.TYPES: "A list of keys written for transformers 4, or a data collator that keeps only "
    "the keys it knows.",
    Kind.RUNS: "Truncation inside an image, or images of another size than the text was made for.",
    Kind.ROWS: "Code that trims every 2-D tensor to the length of the text, or slices pixel_values "
    "by sample although it has one row per patch.",
    Kind.STACK: "Process all samples in one call of the processor with padding=True, or "
    "concatenate the rows "
    "of media on dim 0 where they count images, tiles or patches; do not stack them.",
    Kind.NO_SIZES: "A completion has sampled a placeholder token in a sample without images, or "
    "the key of sizes was dropped.",
    Kind.EMPTY: "Code that slices pixel_values for a chunk of text-only samples: leave the key "
    "out instead.",
    Kind.INDEX: "More placeholders in one text than images for it: a typed placeholder, or images "
    "of another sample.",
    Kind.SCATTER: "Texts were repeated, as for several generations, but media were not; an image "
    "is missing in the media; or images were processed again at a smaller size.",
    Kind.LAID_OUT: "Truncation inside an image, grids in another order than the texts, an "
    "attention_mask of other samples, or token types that were cut otherwise than input_ids.",
    Kind.LABELS: "Labels made from the text before placeholders were expanded or padding was "
    "added, or cut without input_ids.",
    Kind.COLUMNS: "Code that pads, trims or appends a completion to input_ids and leaves another "
    "key as it was, or that cuts one media key and not the others.",
    Kind.SHAPE: "A [0] or squeeze too many, a data loader that stacks batches of one sample, or "
    "images of data_format='channels_last'.",
    Kind.NO_PIXELS: "A chunk of text-only samples, or a list of keys that does not have the key.",
    Kind.NOTHING: "A text-only sample in a data set with images: give it an empty list, "
    "images=[[first], []].",
    Kind.VOCABULARY: "A placeholder token that was added to the tokenizer and not to the model, "
    "the tokenizer of another checkpoint, -100 in input_ids, or more tokens than positions.",
}
ONWARD = (
    "vlmdebug run train.py      runs your program unchanged; names the call, sample and image",
    "vlmdebug.post_mortem()     after the exception, in a notebook, debugger or except block",
    "vlmdebug check batch.pt    a batch saved by torch.save(dict(inputs), 'batch.pt')",
)
ANY_CODE = (
    "Any code of torch or Python may raise this. The following holds if a model or processor of "
    "images, videos or audio did."
)
WIDEST = 32
"""Features per token above which they are numbers, not vectors."""


@dataclass(frozen=True)
class Explanation:
    """An explained error text.

    Attributes:
        text: The text of the table that was recognised.
        means: What it says.
        usually: The usual cause, by the ratio of the numbers in it.
        code: The mismatch code with a page that goes on.
        anywhere: Whether any code may raise the text, so that its meaning holds only if a model or
            processor did.
    """

    text: str
    means: str
    usually: str
    code: str
    anywhere: bool = False

    def __str__(self) -> str:
        onward = [*ONWARD, f"vlmdebug explain {self.code}    the page of this mismatch"]
        lines = [self.text, "", *([ANY_CODE, ""] if self.anywhere else [])]
        lines += [f"Meaning: {self.means}", f"Usual cause: {self.usually}", ""]
        return "\n".join([*lines, "To find the sample and the image:", *(f"  {x}" for x in onward)])


@public
def explanation(text: str) -> Explanation:
    """Explain an error text of a model or processor; a whole traceback is fine.

    Raises:
        BadInput: The text is none that is known.
    """
    found = recognised(text)
    if found is None:
        raise BadInput(
            f"{one_line(text, 200)!r} is neither a mismatch code nor an error text that is known. "
            "Nothing was explained. Pass the last line of the traceback, or run the program "
            "with `vlmdebug run`."
        )
    usually = USUALLY.get(found.kind) or by_ratio(found)
    return Explanation(
        one_line(_filled(found)),
        MEANS[found.kind],
        usually,
        PAGES[found.kind],
        anywhere=found.kind in ANYWHERE,
    )


def _filled(found: Recognised) -> str:
    """The text with its numbers."""
    numbers = {"{tokens}": found.tokens, "{features}": found.features}
    said = found.text
    for gap, number in numbers.items():
        said = said.replace(gap, "…" if number is None else str(number))
    return said.replace("{}", "…")


def by_ratio(found: Recognised) -> str:
    """What usually gives that many tokens for that many features."""
    tokens, features = found.tokens, found.features
    if tokens is None or features is None:
        return "Placeholders typed in the data, truncation, or media of another sample."
    if tokens == 0:
        return (
            "No placeholder is in the text: the prompt was made without the chat template or the "
            "processor, or truncation cut all images away."
        )
    if features == 0:
        return "The media were dropped, or a text-only sample has a placeholder in its text."
    if features >= WIDEST * tokens:
        return (
            f"Some models count numbers, not vectors: divide {features} by the hidden size, and "
            "compare again. If it is still larger, media of more samples were passed than texts."
        )
    return _few(tokens, features)


def _few(tokens: int, features: int) -> str:
    more, fewer = divmod(tokens, features), divmod(features, tokens)
    if more[1] == 0 and more[0] > 1:
        return _times(more[0], "tokens", "features") + (
            " The placeholders were expanded twice, texts were repeated (for several generations) "
            "but media were not, or a video has another number of frames in its text."
        )
    if fewer[1] == 0 and fewer[0] > 1:
        return _times(fewer[0], "features", "tokens") + (
            " The text of one chunk came with the media of the whole batch, or the placeholders "
            "were made for images of another size."
        )
    if 0 < tokens - features <= 8:
        return (
            f"{tokens - features} placeholder{'s' * (tokens - features > 1)} too many: a "
            "placeholder is typed in the data, or a completion has sampled the token."
        )
    if tokens < features:
        return (
            f"{features - tokens} placeholders are missing: truncation (max_length) cut them off, "
            "or images were processed again at another size."
        )
    return (
        f"{features} features for {tokens} placeholders: an image is missing in the media, or "
        "images were processed again at another size than the text was made for."
    )


def _times(ratio: int, more: str, fewer: str) -> str:
    square = " 4 is also the square of a usual merge size." if ratio == 4 else ""
    return f"{ratio} times as many {more} as {fewer}.{square}"
