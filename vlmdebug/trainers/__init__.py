"""Adapters that run the slicing code of installed trainers; each is loaded when it is asked for."""
