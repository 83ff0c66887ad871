"""`python -m train.report RUN`: the run's own files as one page."""
