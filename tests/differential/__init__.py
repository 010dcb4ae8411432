"""A differential fuzzer: the verdicts of `vlmdebug` beside the values and the real tiny models.

`sound` makes batches with real processors and cuts them by an oracle of its own. `mutations` are
what slicing code does to a right chunk, `faults` what collators and trainers do to a whole batch.
`trial` asks for the verdict, then for the truth. Nothing here uses the counts, offsets or
comparisons of the package.
"""
