"""A live run: every call of a model, judged while it trains."""
