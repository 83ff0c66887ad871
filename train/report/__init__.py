"""`python -m train.report RUN`: writes the files of a run as one HTML page."""
