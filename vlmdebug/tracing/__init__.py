"""The one place that watches running code: which rows of the batch does it really hand over?"""
