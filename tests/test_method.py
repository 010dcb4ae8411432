"""A method as a slicer: what nobody gave is invented and listed, decides nothing, and is blamed
on nobody."""

from __future__ import annotations

import abc
import subprocess
import sys
import textwrap
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.testing import assert_slices

LLAVA = {"families": ["llava"], "max_examples": 20}
WITH_IMAGES = {**LLAVA, "text_only": False}


def right(slicer) -> None:
    assert vd.falsify(slicer, **LLAVA) is None


def broken(slicer) -> None:
    found = vd.falsify(slicer, **LLAVA)

    assert found is not None
    assert "VLM00" in str(found.report)


class Trainer:
    """Cuts batches of LLaVA as trainers do, with a model of its own."""

    offsets_of = staticmethod(lambda counts: [0, *accumulate(counts)])
    __private = 1

    def by_images(self, inputs, chunk_size):
        images = self.offsets_of(inputs["num_images"])
        for start in range(0, len(inputs["input_ids"]), chunk_size):
            stop = min(start + chunk_size, len(inputs["input_ids"]))
            own = slice(images[start], images[stop])
            chunk = {k: inputs[k][start:stop] for k in ("input_ids", "attention_mask")}
            if images[start] < images[stop]:
                chunk["pixel_values"] = inputs["pixel_values"][own]
            with self.accelerator.autocast():
                self.losses.append(self.model(**chunk, use_cache=self.use_cache).loss / self.scale)

    def by_sample(self, inputs, chunk_size):
        for start in range(0, len(inputs["input_ids"]), chunk_size):
            own = slice(start, start + chunk_size)
            keys = ("input_ids", "attention_mask", "pixel_values")
            self.model(**{k: inputs[k][own] for k in keys if k in inputs})

    def keys(self, model, input_ids, attention_mask, num_images, pixel_values=None, batch_size=1):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {"num_images": num_images, "pixel_values": pixel_values}
        self.model = model
        self.by_images(inputs, batch_size + self.__private - 1)

    def bounds(self, inputs, start, stop):
        images = self.offsets_of(inputs["num_images"])
        chunk = {k: inputs[k][start:stop] for k in ("input_ids", "attention_mask")}
        if images[start] < images[stop]:
            chunk["pixel_values"] = inputs["pixel_values"][images[start] : images[stop]]
        return chunk


class Child(Trainer):
    """Calls its parent's method, and one of its own."""

    def by_images(self, inputs, chunk_size):
        return super().by_images(inputs, chunk_size)


class Module(torch.nn.Module, abc.ABC):
    """A module that cannot be made as it is."""

    @abc.abstractmethod
    def missing(self): ...

    def loss(self, inputs, chunk_size):
        return Trainer.by_images(self, inputs, chunk_size)

    offsets_of = staticmethod(Trainer.offsets_of)


@pytest.mark.parametrize(
    "method",
    [Trainer.by_images, Trainer.keys, Trainer.bounds, Child.by_images, Module.loss],
    ids=lambda one: one.__qualname__,
)
def test_right_method_survives(method):
    right(vd.method(method))


def test_wrong_method_is_broken_by_smallest_batch():
    broken(vd.method(Trainer.by_sample))


def test_what_was_invented_is_listed():
    slicer = vd.method(Trainer.by_images)
    right(slicer)

    assert set(slicer.invented) == {
        "self.accelerator.autocast",
        "self.losses.append",
        "self.model",
        "self.use_cache",
        "self.scale",
    }


@pytest.mark.parametrize(
    "known", [{"scale": 2.0}, SimpleNamespace(scale=2.0)], ids=["a dict", "an object"]
)
def test_what_is_given_is_not_invented(known):
    slicer = vd.method(Trainer.by_images, self=known)
    right(slicer)

    assert "self.scale" not in slicer.invented
    assert "self.model" in slicer.invented


def test_object_of_a_bound_method_is_used():
    trainer = Trainer()
    trainer.scale = 2.0
    slicer = vd.method(trainer.by_images)
    right(slicer)

    assert "self.scale" not in slicer.invented


def test_record_check_and_assert_slices_take_it():
    batch = vd.make_batch("llava", [2, 1])

    assert_slices(vd.method(Trainer.by_images), **LLAVA)
    assert vd.check(vd.method(Trainer.by_images), batch).ok
    assert not vd.check(vd.method(Trainer.by_sample), batch).ok
    assert not vd.check(vd.record(vd.method(Trainer.by_sample)), batch).ok


# --- what is invented decides nothing --------------------------------------------------------

CONDITIONS = {
    "truth": "self.x",
    "not": "not self.x",
    "is None": "self.x is None",
    "is not None": "self.x.y is not None",
    "equals": "self.x == 'grpo'",
    "differs": "'grpo' != self.x",
    "in": "self.x in ('a', 'b')",
    "contains": "'a' in self.x",
    "in a set": "self.x not in {'a', 'b'}",
    "isinstance": "isinstance(self.x, dict)",
    "hasattr": "hasattr(self, 'x')",
    "callable": "callable(self.x)",
    "less": "1 < self.x + 2",
    "a call's result": "self.f(3)",
    "a name's": "(y := self.x) and y is not None",
    "of a class that is missing": "isinstance(self.x, Missing)",
}
DECIDES = """
class T:
    def f(self, inputs, chunk_size):
        ids = inputs["input_ids"]
        for a in range(0, len(ids), chunk_size):
            rows = slice(a, a + chunk_size)
            {body}


class Missing: ...
"""
CUT = "yield {'input_ids': ids[rows], 'pixel_values': inputs['pixel_values'][:1]}"
WHOLE = "yield {'input_ids': ids, 'pixel_values': inputs['pixel_values']}"


def written(folder, source: str, name: str = "cut.py"):
    path = folder / name
    path.write_text(textwrap.dedent(source))
    return path


def loaded(folder, body: str):
    """`T.f` with this body in its loop."""
    path = written(folder, DECIDES.format(body=body.replace("\n", "\n            ")))
    names: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["T"].f  # type: ignore[attr-defined]


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_condition_on_what_was_invented_ends_the_trial(tmp_path, condition):
    function = loaded(tmp_path, f"if {condition}:\n    {CUT}\nelse:\n    {WHOLE}")

    with pytest.raises(
        vd.BadInput, match=r"depends on whether .* Nothing was judged\. Give it: vl"
    ):
        vd.falsify(vd.method(function), **LLAVA)


def test_condition_that_changes_nothing_for_the_model_does_not_matter(tmp_path):
    function = loaded(tmp_path, f"if self.log:\n    print('a')\n{CUT}")
    slicer = vd.method(function)
    broken(slicer)

    assert slicer.conditions == ("self.log",)


def test_value_that_is_given_decides(tmp_path):
    function = loaded(tmp_path, f"if self.x:\n    {CUT}\nelse:\n    {WHOLE}")

    broken(vd.method(function, self={"x": True}))
    broken(vd.method(function, self=SimpleNamespace(x=True)))


NEEDS = {
    "a number": ("range(self.n)", "the number of self.n"),
    "an index": ("[1, 2][self.n]", None),
    "a length": ("len(self.rows)", "the length of self.rows"),
    "items": ("[row for row in self.rows]", "the items of self.rows"),
    "a look-up": ("{'a': 1}.get(self.mode)", "the value of self.mode"),
    "an end": (
        "[0 for _ in iter(lambda: bool(self.more), True)]",
        "that asks for the value of self.more",
    ),
    "a float": ("float(self.t)", "the number of self.t"),
}


@pytest.mark.parametrize(("code", "message"), NEEDS.values(), ids=NEEDS.keys())
def test_number_that_nobody_gave_ends_the_trial_and_says_how_to_give_it(tmp_path, code, message):
    function = loaded(tmp_path, f"try:\n    x = {code}\nexcept BaseException:\n    x = 0\n{WHOLE}")
    if message is None:
        vd.falsify(vd.method(function), **WITH_IMAGES)  # it spreads, and reaches no call
        return
    with pytest.raises(vd.BadInput) as caught:
        vd.falsify(vd.method(function), **LLAVA)
    path = message.rpartition(" ")[2]

    assert f"{message}, which nobody gave" in str(caught.value)
    assert f"--given {path}=VALUE" in str(caught.value)


def test_invented_rows_end_the_trial(tmp_path):
    function = loaded(tmp_path, "self.model(input_ids=ids[rows], pixel_values=self.pixels())")

    with pytest.raises(vd.BadInput, match=r"needs the rows of pixel_values, .* self\.pixels"):
        vd.falsify(vd.method(function), **LLAVA)


def test_exception_of_what_was_invented_is_not_blamed(tmp_path):
    function = loaded(tmp_path, "y = self.table\nopen(y)\n" + WHOLE)

    with pytest.raises(
        vd.BadInput, match=r"needs the (value|number) of self\.table, which nobody gave"
    ):
        vd.falsify(vd.method(function), **WITH_IMAGES)


def test_exception_of_the_code_is_its_own(tmp_path):
    function = loaded(tmp_path, "device = self.device\nif a:\n    last = 1\nprint(last, device)")
    found = vd.falsify(vd.method(function), **LLAVA)

    assert found is not None
    assert isinstance(found.error, UnboundLocalError)


def test_method_that_calls_no_model_is_not_judged(tmp_path):
    with pytest.raises(vd.BadInput, match=r"passed no batch to a model, and gave none"):
        vd.falsify(vd.method(loaded(tmp_path, "continue")), **LLAVA)


@pytest.mark.parametrize("thing", [3, len, Trainer, lambda x: x])
def test_what_is_no_method_is_refused(thing):
    with pytest.raises(vd.BadInput, match=r"^method was given .* Nothing was tried"):
        vd.method(thing)


def test_async_method_is_refused():
    async def step(inputs): ...

    with pytest.raises(vd.BadInput, match="`async`"):
        vd.method(step)


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """A package with a failing `__init__`, and a module that imports what is not installed."""
    folder = tmp_path / "pack" / "inner"
    folder.mkdir(parents=True)
    written(tmp_path / "pack", "import nowhere_x\nraise RuntimeError('no GPU')", "__init__.py")
    written(folder, "", "__init__.py")
    written(tmp_path / "pack", "def bounds(a, size):\n    return slice(a, a + size)", "cuts.py")
    return written(
        folder,
        """
        import sys
        from nowhere_x.y import Base, decorated
        from ..cuts import bounds

        print("loaded", file=sys.stderr)


        class Trainer(Base):
            @decorated("fast")
            def loss(self, model, inputs, size=None):
                for a in range(0, len(inputs["input_ids"]), size):
                    own = bounds(a, size)
                    keys = ("input_ids", "attention_mask", "pixel_values")
                    model(**{key: inputs[key][own] for key in keys if key in inputs})

            def scaled(self, model, inputs):
                model(input_ids=inputs["input_ids"][: int(self.share)])

            def ends(self, model, inputs):
                import os
                os._exit(7)


        def by_keys(model, input_ids, pixel_values):
            model(input_ids=input_ids, pixel_values=pixel_values)
        """,
        "trainer.py",
    )


FEW = ["--family", "llava", "--max-examples", "10", "--no-text-only"]


def test_method_inside_a_package_is_run(package, capsys):
    before = set(sys.modules)
    status = main(["falsify", f"{package}:Trainer.loss", *FEW])
    printed = capsys.readouterr()

    assert status == 1
    assert printed.out.startswith("llava: images per sample [2], chunk size 1")
    assert "VLM001" in printed.out
    assert "loaded" not in printed.out + printed.err
    assert not {name for name in set(sys.modules) - before if name.startswith("pack")}


def test_gap_exits_2_and_can_be_given(package, capsys):
    assert main(["falsify", f"{package}:Trainer.scaled", *FEW]) == 2
    assert "--given self.share=VALUE" in capsys.readouterr().err
    assert main(["falsify", f"{package}:Trainer.scaled", *FEW, "--given", "self.share=1"]) == 1


def test_process_that_ends_itself_is_not_judged(package, capsys):
    assert main(["falsify", f"{package}:Trainer.ends", *FEW]) == 2
    assert "ended with status 7. Nothing was judged" in capsys.readouterr().err


def test_function_that_takes_keys_is_bound_by_name(package, capsys):
    assert main(["falsify", f"{package}:by_keys", *FEW]) in (0, 1)
    assert "VLM008" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["self.x", "self.x=open('a')", "=3"])
def test_given_takes_literals_only(package, option, capsys):
    assert main(["falsify", f"{package}:Trainer.loss", "--given", option]) == 2
    assert "PATH=VALUE with a Python literal" in capsys.readouterr().err


def test_printed_test_of_a_method_runs(package, capsys):
    main(["falsify", f"{package}:Trainer.loss", *FEW, "--pytest"])
    printed = capsys.readouterr().out
    test = printed[printed.index("from importlib") :].partition("\nInvented")[0]

    assert 'attrgetter("Trainer.loss")(import_module("pack.inner.trainer"))' in test
    assert "vd.check(vd.method(slicer), batch" in test
    compile(test, "test.py", "exec")


def test_trl_loop_is_run_as_it_is_and_agrees_with_review():
    trl = pytest.importorskip("trl")
    loop = trl.GRPOTrainer._get_per_token_logps_and_entropies
    with pytest.raises(vd.BadInput, match="logits_to_keep=VALUE"):
        vd.falsify(vd.method(loop), **LLAVA)
    slicer = vd.method(loop, logits_to_keep=1)
    report = vd.check(slicer, vd.make_batch("idefics3", [1, 0, 2]), chunk_size=2)

    assert vd.falsify(slicer, **WITH_IMAGES) is None
    assert "VLM001" in {one.code for one in report.findings}
    assert slicer.invented == ("self.accelerator.autocast",)


def test_subprocess_needs_nothing_of_this_one():
    assert subprocess.run([sys.executable, "-c", "import vlmdebug.running.apart"]).returncode == 0
