"""`python -m train.advise`: the literature's formulas about a model and its lengths, as tables and one page."""
